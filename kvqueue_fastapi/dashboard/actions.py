"""The way of an action: its form is read and checked, it is done, logged and told."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from kvqueue_fastapi.dashboard import bulk, deeds
from kvqueue_fastapi.dashboard.audit import tell
from kvqueue_fastapi.dashboard.form import Form, read_form
from kvqueue_fastapi.dashboard.outcome import Outcome
from kvqueue_fastapi.dashboard.protection import forgery
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.errors import KvQueueError, StoreError


@dataclass(frozen=True, slots=True)
class Action:
    """What answers to a button.

    Attributes:
        name: in its URL and in the log.
        deed: does it.
        asks: what to ask first, because it cannot be taken back; None: nothing.
        is_bulk: it is done to all dead letters that had died when it was asked.
    """

    name: str
    deed: Callable[[Visit, Form], Awaitable[Outcome]]
    asks: str | None = None
    is_bulk: bool = False

    async def __call__(self, visit: Visit) -> Response:
        """Answer to the button."""
        form = await read_form(visit.request, visit.runtime.settings.max_payload_bytes)
        if problem := forgery(visit.request, form.text("token")):
            self._tell(visit, form, 0, f"refused: {problem}")
            return await visit.page("refused.html", 403, look=await visit.look(), problem=problem)
        if self.asks is not None and not self._is_sure(form):
            return await self._question(visit, form)
        if self.is_bulk:
            # A process that dies meanwhile is to leave a trace, too.
            self._tell(visit, form, stage="begun")
        try:
            outcome = await self.deed(visit, form)
        except BaseException as error:
            if isinstance(error, StoreError) or not isinstance(error, KvQueueError):
                visit.changed()
                self._tell(visit, form, visit.done, type(error).__name__)
                raise
            outcome = Outcome(str(error), visit.done, problem=str(error))
        self._tell(visit, form, outcome.count, outcome.problem)
        visit.changed()
        mood = outcome.mood if outcome.problem is None else "bad"
        return outcome.page or visit.leave(form.place, outcome.text, link=outcome.link, mood=mood)

    def _is_sure(self, form: Form) -> bool:
        return form.text("sure") == "yes" and (not self.is_bulk or bulk.is_bounded(form))

    async def _question(self, visit: Visit, form: Form) -> Response:
        kind, ids = form.text("type"), form.ids
        # Before they are counted, so that none is meant that was not.
        last_death_ms = await visit.admin.last_death_ms() if self.is_bulk else None
        if self.is_bulk:
            # Counted now, because what was counted before is not what is acted on.
            visit.changed()
        look = await visit.look()
        counts = [one for one in look.counts if one.dead and kind in {"", one.type}]
        count = sum(one.dead for one in counts) if self.is_bulk else len(ids)
        if not count or (self.is_bulk and last_death_ms is None):
            return visit.leave(form.place, deeds.NOTHING, mood="bad")
        return await visit.page(
            "question.html",
            look=look,
            action=self,
            ids=ids,
            kind=kind,
            counts=counts if self.is_bulk else [],
            died_by_ms=last_death_ms,
            count=count,
            back=form.place,
        )

    def _tell(
        self,
        visit: Visit,
        form: Form,
        count: int | None = None,
        problem: str | None = None,
        stage: str | None = None,
    ) -> None:
        kind = form.text("type") or None
        tell(
            visit.request,
            self.name,
            ids=form.ids,
            message_type=kind,
            count=count,
            problem=problem,
            stage=stage,
            died_by_ms=bulk.died_by_ms(form) if self.is_bulk else None,
        )


ACTIONS: Final = {
    action.name: action
    for action in (
        Action("pause", deeds.pause),
        Action("resume", deeds.resume),
        Action("requeue", deeds.requeue),
        Action("requeue-as", deeds.requeue_as),
        Action("requeue-all", bulk.requeue_all, asks="Requeue", is_bulk=True),
        Action("discard", deeds.discard, asks="Discard"),
        Action("discard-all", bulk.discard_all, asks="Discard", is_bulk=True),
        Action("cancel", deeds.cancel, asks="Cancel"),
        Action("send-again", deeds.send_again),
    )
}
