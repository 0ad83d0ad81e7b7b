"""One message: what it carries, and what became of it so far."""

from starlette.responses import Response

from kvqueue_fastapi.dashboard.form import number_of
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.dashboard.wording import MAX_PAYLOAD_CHARACTERS, as_json
from kvqueue_fastapi.keeper import MessageRecord, State


async def message(visit: Visit) -> Response:
    """Answer with one message or dead letter."""
    record = await _record(visit)
    if record is None:
        return await _gone(visit)
    text = as_json(record.data)
    return await visit.page(
        "message.html",
        look=await visit.look(),
        record=record,
        payload=text[:MAX_PAYLOAD_CHARACTERS],
        length=len(text),
        obstacle=obstacle(record, text),
        can_wait=record.state not in {State.RUNNING, State.DEAD},
    )


async def edit(visit: Visit) -> Response:
    """Answer with a form for another payload of a dead letter."""
    record = await _record(visit)
    return await _gone(visit) if record is None else await edit_page(visit, record)


async def edit_page(
    visit: Visit, record: MessageRecord, text: str | None = None, problem: str | None = None
) -> Response:
    """Answer with the form.

    Args:
        visit: the request.
        record: the dead letter.
        text: what was typed before; None: the payload as it is.
        problem: why that was not taken.
    """
    payload = as_json(record.data)
    return await visit.page(
        "edit.html",
        422 if problem else 200,
        look=await visit.look(),
        record=record,
        payload=payload if text is None else text,
        obstacle=obstacle(record, payload),
        problem=problem,
    )


def obstacle(record: MessageRecord, text: str) -> str | None:
    """Why a payload cannot be edited here; None: it can be."""
    if record.state is not State.DEAD:
        return "Only a dead letter can be edited."
    if record.is_redacted:
        return (
            "Part of it is hidden by the app's redact, so that editing would store what is shown "
            "in the place of what is there. Requeue it as it is, or send it anew."
        )
    if len(text) > MAX_PAYLOAD_CHARACTERS or text.startswith("(nested"):
        return "It is too long or too deep to be edited here. Use KvQueueAdmin.requeue_as."
    return None


async def _record(visit: Visit) -> MessageRecord | None:
    message_id = number_of(visit.request.path_params["message_id"])
    return None if message_id is None else await visit.admin.message(message_id)


async def _gone(visit: Visit) -> Response:
    asked = visit.request.path_params["message_id"]
    return await visit.page("gone.html", 404, look=await visit.look(), asked=asked)
