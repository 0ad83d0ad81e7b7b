"""What a keeper can do with the queue, and how the outcome is told."""

from json import JSONDecodeError
from typing import Final

from kvqueue_fastapi.dashboard.form import Form
from kvqueue_fastapi.dashboard.one_message import edit_page, obstacle
from kvqueue_fastapi.dashboard.outcome import Outcome, counted
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.dashboard.wording import as_json, plain
from kvqueue_fastapi.errors import KvQueueError, PayloadError, StoreError
from kvqueue_fastapi.keeper import MessageRecord
from kvqueue_fastapi.losses import read_typed
from kvqueue_fastapi.model import type_problem

NOTHING: Final = "Nothing was selected."
_TOLD: Final = 3


async def pause(visit: Visit, form: Form) -> Outcome:
    """Stop claiming a type that there is."""
    kind = form.text("type")
    if problem := await _unknown(visit, kind, "paused"):
        return Outcome(problem, problem=problem)
    await visit.admin.pause(kind)
    return Outcome(f"{plain(kind)} is paused. Running handlers finish.", 1)


async def resume(visit: Visit, form: Form) -> Outcome:
    """Claim a type again that there is."""
    kind = form.text("type")
    if problem := await _unknown(visit, kind, "resumed"):
        return Outcome(problem, problem=problem)
    await visit.admin.resume(kind)
    return Outcome(f"{plain(kind)} goes on.", 1)


async def requeue(visit: Visit, form: Form) -> Outcome:
    """Send dead letters again."""
    match list((await visit.admin.requeue(form.ids)).items()):
        case []:
            return _refused(form, "None of them is a dead letter any more.")
        case [(old, new)]:
            return Outcome(f"Dead letter {old} is requeued as message {new}.", 1, _at(new))
        case many:
            return Outcome(f"{len(many):,} dead letters are requeued.", len(many))


async def requeue_as(visit: Visit, form: Form) -> Outcome:
    """Send a dead letter again with another payload; where it is not taken, ask once more."""
    record = await visit.admin.message(form.ids[0]) if form.ids else None
    if record is None:
        return _refused(form, "There is no such dead letter any more.")
    if problem := obstacle(record, as_json(record.data)):
        return Outcome(problem, problem=problem)
    text = form.text("data")
    try:
        new = await visit.admin.requeue_as(record.id, read_typed(text))
    except PayloadError as error:
        return await _not_taken(visit, record, text, str(error))
    except (JSONDecodeError, RecursionError) as error:
        return await _not_taken(visit, record, text, f"This is no JSON: {error}.")
    except ValueError as error:
        return await _not_taken(visit, record, text, f"Part of it would be lost: {error}.")
    text = f"Dead letter {record.id} is mended and requeued as message {new}."
    return Outcome(text, 1, _at(new))


async def discard(visit: Visit, form: Form) -> Outcome:
    """Remove dead letters for good."""
    gone = await visit.admin.discard(form.ids)
    if not gone:
        return _refused(form, "None of them is there any more, or they run.")
    return Outcome(counted(len(gone), "message", "discarded"), len(gone))


async def cancel(visit: Visit, form: Form) -> Outcome:
    """Remove messages that wait."""
    problems: list[str] = []
    for message_id in form.ids:
        try:
            await visit.admin.cancel(message_id)
            visit.done += 1
        except StoreError:
            raise
        except KvQueueError as error:
            problems.append(str(error))
    if not visit.done:
        return _refused(form, " ".join(problems[:_TOLD]))
    told = [counted(visit.done, "message", "cancelled"), *problems[:_TOLD]]
    return Outcome(" ".join(told), visit.done)


async def send_again(visit: Visit, form: Form) -> Outcome:
    """Send what a message carries once more."""
    if not form.ids:
        return _refused(form, NOTHING)
    new = await visit.admin.send_again(form.ids[0])
    return Outcome(f"Message {form.ids[0]} is sent again as message {new}.", 1, _at(new))


async def _unknown(visit: Visit, kind: str, done: str) -> str | None:
    if type_problem(kind) is not None:  # which the deed itself tells
        return None
    visit.changed()
    look = await visit.look()
    is_known = (
        kind in (visit.runtime.types or ())
        or any(counts.type == kind for counts in look.counts)
        or any(kind in one.types for one in look.listeners)
    )
    return None if is_known else f"There is no message type {plain(kind)}, so nothing was {done}."


async def _not_taken(visit: Visit, record: MessageRecord, text: str, why: str) -> Outcome:
    page = await edit_page(visit, record, text, why)
    return Outcome(why, problem="the payload was not taken", page=page)


def _refused(form: Form, text: str) -> Outcome:
    told = text if form.ids else NOTHING
    return Outcome(told, problem=told)


def _at(message_id: int) -> str:
    return f"messages/{message_id}"
