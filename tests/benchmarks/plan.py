"""All rows, in the order in which they take their turns."""

from tests.benchmarks import (
    depths,
    features,
    floor,
    kv_floor,
    kv_ours,
    latency,
    ours,
    peers,
    postgres,
    web,
    weight,
)
from tests.benchmarks.rows import Row

WORKS = {
    "A": "Send, 100 concurrent producers",
    "B": "Send one by one",
    "C": "Handle a backlog of 20,000",
    "D": "Handle while many wait",
    "E": "Idle latency, from the send to the start of the handler",
    "F": "HTTP: a route that sends",
    "G": "HTTP: an unrelated route while the listener works",
    "H": "CPU of an idle app",
    "I": "Memory with 1,000,000 waiting",
    "J": "Import and start-up",
    "K": "Several workers on one file",
    "L": "Cost of each feature",
    "KV": "Keys and values",
}

ROWS: list[Row] = sorted(
    [
        *floor.ROWS,
        *ours.ROWS,
        *depths.ROWS,
        *latency.ROWS,
        *web.ROWS,
        *weight.ROWS,
        *features.ROWS,
        *kv_floor.ROWS,
        *kv_ours.ROWS,
        *postgres.ROWS,
        *peers.ROWS,
    ],
    key=lambda row: list(WORKS).index(row.work),
)
