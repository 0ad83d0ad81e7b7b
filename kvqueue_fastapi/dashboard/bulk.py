"""What is done to all dead letters: to those that were asked about, for a bounded time."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from kvqueue_fastapi.dashboard.form import Form, number_of
from kvqueue_fastapi.dashboard.outcome import Outcome, counted
from kvqueue_fastapi.dashboard.visit import Visit

BULK_S: Final = 20.0
"""For how long one request goes on: proxies give up on one after 30 or 60 s."""

_All = Callable[..., Awaitable[int]]


class _TimeIsUpError(Exception):
    """One request has done enough."""


async def requeue_all(visit: Visit, form: Form) -> Outcome:
    """Send all dead letters again, of one type or of all."""
    return await _all(visit, form, visit.admin.requeue_all, "requeued")


async def discard_all(visit: Visit, form: Form) -> Outcome:
    """Remove all dead letters for good, of one type or of all."""
    return await _all(visit, form, visit.admin.discard_all, "discarded")


def died_by_ms(form: Form) -> int | None:
    """When the last dead letter had died that the keeper was asked about."""
    return number_of(form.text("died_by_ms"))


def is_bounded(form: Form) -> bool:
    """Whether it says which dead letters the keeper was asked about."""
    return None not in {died_by_ms(form), _count(form)}


def _count(form: Form) -> int | None:
    """How many the keeper was asked about, less those that are done."""
    return number_of(form.text("count"))


async def _all(visit: Visit, form: Form, act: _All, done: str) -> Outcome:
    ends_at = time.monotonic() + BULK_S
    try:
        for kind in await _types(visit, form):
            await act(kind, died_by_ms=died_by_ms(form), progress=_noting(visit, ends_at))
    except _TimeIsUpError:
        if left := await _left(visit, form):
            return await _pause(visit, form, done, left)
    if not visit.done:
        return Outcome(f"No dead letter was {done}: none was left.", mood="plain")
    return Outcome(counted(visit.done, "dead letter", done), visit.done)


def _noting(visit: Visit, ends_at: float) -> Callable[[int], None]:
    before = visit.done

    def note(count: int) -> None:
        visit.done = before + count
        if time.monotonic() >= ends_at:
            raise _TimeIsUpError

    return note


async def _pause(visit: Visit, form: Form, done: str, left: int) -> Outcome:
    """Tell how far it is, and offer to go on."""
    so_far = counted(visit.done, "dead letter", done) if visit.done else _taken(done)
    text = f"{so_far} At most {left:,} {'is' if left == 1 else 'are'} left."
    page = await visit.page(
        "going_on.html",
        look=await visit.look(),
        text=text,
        action=f"{'requeue' if done == 'requeued' else 'discard'}-all",
        kind=form.text("type"),
        died_by_ms=died_by_ms(form),
        count=left,
        back=form.place,
    )
    return Outcome(text, visit.done, page=page)


def _taken(done: str) -> str:
    return f"No dead letter was {done} so far: somebody else took them first."


async def _left(visit: Visit, form: Form) -> int:
    """How many are left at most: others may take some, and some may have died since."""
    visit.changed()
    kind = form.text("type")
    dead = sum(one.dead for one in (await visit.look()).counts if kind in {"", one.type})
    return min(dead, max(0, (_count(form) or 0) - visit.done))


async def _types(visit: Visit, form: Form) -> list[str]:
    if kind := form.text("type"):
        return [kind]
    # Another process may have asked, and the last look of this one be older than that.
    visit.changed()
    return [counts.type for counts in (await visit.look()).counts if counts.dead]
