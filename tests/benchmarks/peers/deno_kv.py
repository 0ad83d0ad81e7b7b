"""Deno KV on its SQLite, run by the binary that the wheel `deno` brings; see deno_kv.ts."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from tests.benchmarks.peers.sizes import DEPTHS, LEAST_S, Sizes
from tests.benchmarks.rows import Figures, Measure, Row, not_installed

SCRIPT = Path(__file__).with_suffix(".ts")
TIMEOUT_S = 120


def _run(directory: Path, work: str, *numbers: float) -> Figures:
    from deno import find_deno_bin

    database = directory / "deno.db"
    command = [find_deno_bin(), "run", "--quiet", "--unstable-kv", "--no-config", "--no-lock"]
    command += [f"--allow-read={directory}", f"--allow-write={directory}", str(SCRIPT), work]
    output = subprocess.run(
        [*command, str(database), *(f"{number:g}" for number in numbers)],
        check=True,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        env={**os.environ, "DENO_DIR": str(directory / "cache"), "DENO_NO_UPDATE_CHECK": "1"},
    )
    figures: Figures = json.loads(output.stdout)
    return figures


def _send_rate(count: int, producers: int, directory: Path, divisor: int) -> Figures:
    return _run(directory, "send", max(count // divisor, producers), producers)


def _handle_rate(
    waiting: int, count: int, limit_s: float, directory: Path, divisor: int
) -> Figures:
    few = min(waiting, count) // divisor
    limit_ms = max(limit_s / divisor, LEAST_S) * 1000
    return _run(directory, "handle", waiting // divisor, few, limit_ms)


def _latency(count: int, gap_s: float, directory: Path, divisor: int) -> Figures:
    return _run(directory, "latency", max(count // divisor, 4), gap_s * 1000)


def _row(work: str, name: str, measure: Measure) -> Row:
    missing = partial(not_installed, "deno")
    return Row(work, name, "Deno KV", "each commit synced", measure, missing)


ROWS: list[Row] = Sizes(
    "Deno KV", depths=DEPTHS, handled=1_000, limit_s=25, latencies=100, gap_s=0.1
).rows(
    _row,
    send=lambda count, producers: partial(_send_rate, count, producers),
    handle=lambda *of: partial(_handle_rate, *of),
    latency=lambda count, gap_s: partial(_latency, count, gap_s),
)
