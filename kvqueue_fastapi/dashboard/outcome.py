"""What became of an action."""

from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response

Mood = Literal["good", "plain", "bad"]
"""How news are told: as good ones, as neither, as what went wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done.

    Attributes:
        text: for the reader.
        count: how many messages or types it changed.
        link: the path of a message that the text is about.
        problem: why nothing was done.
        mood: of the text; where there is a problem it is told as bad.
        page: what to answer; None: the page that the keeper came from, with the text.
    """

    text: str
    count: int = 0
    link: str = ""
    problem: str | None = None
    mood: Mood = "good"
    page: Response | None = None


def counted(count: int, what: str, done: str) -> str:
    """How many of something were treated, as a sentence."""
    return f"{count:,} {what} was {done}." if count == 1 else f"{count:,} {what}s were {done}."
