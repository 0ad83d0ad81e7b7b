"""How messages are shown: a row of a list, or one with all that is known of it."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from rich.json import JSON
from rich.text import Text

from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.tables import Cell, Column
from kvqueue_fastapi.cli.texts import first_line, moment, now_ms, one_line, relative, visible
from kvqueue_fastapi.errors import shown
from kvqueue_fastapi.keeper import AttemptError, MessageRecord, State

COLUMNS: Final = (
    Column("ID", is_number=True, style="bold"),
    Column("TYPE", style="cyan", is_elastic=True),
    Column("STATE"),
    Column("ATTEMPT", is_number=True, is_optional=True),
    Column("SENT", is_spare=True),
    Column("KEY", is_elastic=True, is_optional=True),
    Column("PAYLOAD", is_elastic=True, is_spare=True),
    Column("LAST ERROR", style="red", is_elastic=True, is_spare=True),
)
_STYLES: Final = {State.DEAD: "red", State.RUNNING: "green", State.READY: "", State.DELAYED: "blue"}
_NAME_WIDTH: Final = 16


def show_list(records: Sequence[MessageRecord], output: Output, empty: str) -> None:
    """Write messages, one a line."""
    if output.as_json:
        output.records(records)
    else:
        output.table(COLUMNS, [_row(record) for record in records], empty)


def show_all(record: MessageRecord, output: Output) -> None:
    """Write all that is known of a message: how it stands, its payload, its attempts."""
    if output.as_json:
        output.record(record)
        return
    for name, value in _facts(record):
        text = Text(f"{name:<{_NAME_WIDTH}}", style="dim")
        output.say(text.append(one_line(value), style="not dim"))
    _show_payload(record, output)
    for error in record.errors:
        _show_error(error, output)


def payload_text(data: Any, *, indent: int | None = None) -> str:
    """A payload as JSON, or as near to it as can be."""
    try:
        return json.dumps(data, ensure_ascii=False, indent=indent, default=repr)
    except ValueError:  # a number of more than 4,300 digits, which another program wrote
        return shown(data)


def _row(record: MessageRecord) -> list[Cell]:
    return [
        str(record.id),
        record.type,
        Text(_state(record), style=_STYLES.get(record.state, "yellow")),
        str(record.attempt),
        relative(record.sent_at_ms),
        record.ordering_key or "",
        payload_text(record.data),
        first_line(record.errors[-1].text) if record.errors else (record.reason or ""),
    ]


def _state(record: MessageRecord) -> str:
    if record.state is State.DELAYED and record.due_at_ms > now_ms():
        return f"delayed {relative(record.due_at_ms)}"
    return record.state.value


def _facts(record: MessageRecord) -> Iterator[tuple[str, str]]:
    is_dead = record.state is State.DEAD
    yield "message", str(record.id)
    yield "type", record.type
    yield "state", record.state.value
    if record.reason:
        yield "reason", record.reason
    yield "sent", moment(record.sent_at_ms)
    yield ("died" if is_dead else "due"), moment(record.due_at_ms)
    yield "attempts", str(record.attempt)
    yield from _present(
        ("crashes", record.crashes),
        ("deferrals", record.deferrals),
        ("priority", record.priority),
        ("ordering key", record.ordering_key),
        ("requeued from", record.requeued_from),
    )
    for name, value in record.headers.items():
        yield "header", f"{name}: {value}"


def _present(*facts: tuple[str, Any]) -> Iterable[tuple[str, str]]:
    return [(name, str(value)) for name, value in facts if value]


def _show_payload(record: MessageRecord, output: Output) -> None:
    hidden = ", of which something is hidden" if record.is_redacted else ""
    output.say(Text(f"\npayload{hidden}", style="bold"))
    text = visible(payload_text(record.data, indent=2))
    output.say(JSON(text, indent=2).text if _is_json(text) and output.is_pretty else text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _show_error(error: AttemptError, output: Output) -> None:
    output.say(Text(f"\nattempt {error.attempt}, {moment(error.at_ms)}", style="bold"))
    output.say(Text(visible(error.text), style="red"))
    if error.trace:
        output.say(Text(visible(error.trace.rstrip()), style="dim"))
