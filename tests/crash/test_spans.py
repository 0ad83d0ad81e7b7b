"""Spans of time: what is cut out of them, and what is left."""

import pytest

from tests.crash.spans import Span, without

DAY = Span(0, 24)


@pytest.mark.parametrize(
    ("hole", "left"),
    [
        (Span(8, 16), [Span(0, 8), Span(16, 24)]),
        (Span(-1, 8), [Span(8, 24)]),
        (Span(16, 25), [Span(0, 16)]),
        (Span(30, 40), [DAY]),
        (Span(0, 24), []),
        (Span(8, 8), [DAY]),
        (Span(16, 8), [DAY]),
    ],
)
def test_hole_leaves_what_is_beside_it_and_never_more_than_there_was(
    hole: Span, left: list[Span]
) -> None:
    assert without([DAY], [hole]) == left
