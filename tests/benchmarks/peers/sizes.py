"""How much of each kind of work a peer is given."""

from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.rows import Measure, Row

LIMIT_S = 10.0
"""Whoever has not handled all by then gets the rate of what was handled until then."""

LEAST_S = 3.0
"""The limit when the work is divided."""

WAIT_S = 10.0
"""By then an idle handler has been given a message, or never will be."""

DEPTHS = (1_000, 10_000, 100_000)


class Sizes(NamedTuple):
    """Counts that take a peer a few seconds each; they change no rate.

    Attributes:
        name: the line of the table, such as "SAQ (Redis)".
        sends: messages of A, by 100 producers.
        ones: messages of B, sent one by one.
        depths: how many wait in the rows of D, at most `handled` of which are handled.
        limit_s: of C: more where the rate depends on how many wait, so that all are handled.
        latencies: messages of E, with pauses of 5 ms to `gap_s` between them: whoever polls
            should be met at any moment of the poll.
    """

    name: str
    sends: int = 10_000
    ones: int = 3_000
    backlog: int = 20_000
    depths: tuple[int, ...] = ()
    handled: int = 10_000
    limit_s: float = LIMIT_S
    latencies: int = 200
    gap_s: float = 0.006

    def rows(
        self,
        row: Callable[[str, str, Measure], Row],
        send: Callable[[int, int], Measure],
        handle: Callable[[int, int, float], Measure],
        latency: Callable[[int, float], Measure],
    ) -> list[Row]:
        return [
            row("A", self.name, send(self.sends, 100)),
            row("B", self.name, send(self.ones, 1)),
            row("C", self.name, handle(self.backlog, self.backlog, self.limit_s)),
            *(
                row("D", f"{self.name}, {depth:,} waiting", handle(depth, self.handled, LIMIT_S))
                for depth in self.depths
            ),
            row("E", self.name, latency(self.latencies, self.gap_s)),
        ]
