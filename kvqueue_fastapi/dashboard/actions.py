"""The way of an action: its form is read and checked, it is done, logged and told."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from kvqueue_fastapi.dashboard import deeds
from kvqueue_fastapi.dashboard.audit import tell
from kvqueue_fastapi.dashboard.deeds import Outcome
from kvqueue_fastapi.dashboard.form import Form, read_form
from kvqueue_fastapi.dashboard.protection import forgery
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.errors import KvQueueError, StoreError

_PLACE: Final = re.compile(r"(?:messages|dead|messages/-?\d{1,20})?(?:\?[!-~]*)?")


@dataclass(frozen=True, slots=True)
class Action:
    """What answers to a button.

    Attributes:
        name: in its URL and in the log.
        deed: does it; gives a response of its own where it was not done.
        asks: what to ask first, because it cannot be taken back; None: nothing.
    """

    name: str
    deed: Callable[[Visit, Form], Awaitable[Outcome | Response]]
    asks: str | None = None

    async def __call__(self, visit: Visit) -> Response:
        """Answer to the button."""
        form = await read_form(visit.request, visit.runtime.settings.max_payload_bytes)
        if problem := forgery(visit.request, form.text("token")):
            self._tell(visit, form, problem=f"refused: {problem}")
            return visit.page("refused.html", 403, look=await visit.look(), problem=problem)
        if self.asks is not None and form.text("sure") != "yes":
            return await self._question(visit, form)
        try:
            outcome = await self.deed(visit, form)
        except StoreError as error:
            self._tell(visit, form, problem=type(error).__name__)
            raise
        except KvQueueError as error:
            outcome = Outcome(str(error), problem=str(error))
        if isinstance(outcome, Response):
            self._tell(visit, form, problem="the payload was not taken")
            return outcome
        self._tell(visit, form, outcome.count, outcome.problem)
        visit.changed()
        good = outcome.problem is None
        return visit.leave(_back(form), outcome.text, link=outcome.link, is_good=good)

    async def _question(self, visit: Visit, form: Form) -> Response:
        look = await visit.look()
        kind, ids = form.text("type"), form.ids
        counts = [one for one in look.counts if one.dead and kind in {"", one.type}]
        is_all = self.name.endswith("-all")
        count = sum(one.dead for one in counts) if is_all else len(ids)
        if not count:
            return visit.leave(_back(form), deeds.NOTHING, is_good=False)
        return visit.page(
            "question.html",
            look=look,
            action=self,
            ids=ids,
            kind=kind,
            counts=counts if is_all else [],
            count=count,
            back=_back(form),
        )

    def _tell(self, visit: Visit, form: Form, count: int = 0, problem: str | None = None) -> None:
        kind = form.text("type") or None
        tell(
            visit.request,
            self.name,
            ids=form.ids,
            message_type=kind,
            count=count,
            problem=problem,
        )


def _back(form: Form) -> str:
    """Where the form was, below the overview: nowhere else."""
    place = form.text("back")
    return place if _PLACE.fullmatch(place) else ""


ACTIONS: Final = {
    action.name: action
    for action in (
        Action("pause", deeds.pause),
        Action("resume", deeds.resume),
        Action("requeue", deeds.requeue),
        Action("requeue-as", deeds.requeue_as),
        Action("requeue-all", deeds.requeue_all, asks="Requeue"),
        Action("discard", deeds.discard, asks="Discard"),
        Action("discard-all", deeds.discard_all, asks="Discard"),
        Action("cancel", deeds.cancel, asks="Cancel"),
        Action("send-again", deeds.send_again),
    )
}
