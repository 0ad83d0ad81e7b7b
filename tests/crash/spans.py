"""Spans of time, and how much of them overlaps."""

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """From a moment to another one, in seconds since 1970."""

    begin: float
    end: float

    def holds(self, moment: float) -> bool:
        return self.begin <= moment <= self.end


def without(spans: Iterable[Span], holes: Iterable[Span]) -> list[Span]:
    """What is left of some spans when others are cut out of them, if these have any length."""
    left = list(spans)
    for hole in holes:
        if hole.begin >= hole.end:
            continue
        left = [
            piece
            for span in left
            for piece in (
                Span(span.begin, min(span.end, hole.begin)),
                Span(max(span.begin, hole.end), span.end),
            )
            if piece.begin < piece.end
        ]
    return left


def seconds_within(spans: Iterable[Span], window: Span) -> float:
    """How much of a window some spans cover, where they overlap once."""
    covered, reached = 0.0, window.begin
    for span in sorted(spans):
        begin, end = max(span.begin, reached), min(span.end, window.end)
        if begin < end:
            covered += end - begin
            reached = end
    return covered
