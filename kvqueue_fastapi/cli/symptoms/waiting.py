"""What can be seen of the messages: who waits in vain, and what nobody would take."""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kvqueue_fastapi.cli.symptoms.findings import Finding, problem, warning
from kvqueue_fastapi.cli.symptoms.outside import WRONG_CLOCK_S
from kvqueue_fastapi.cli.texts import duration
from kvqueue_fastapi.keeper import MessageRecord, TypeCounts

_SPLIT: Final = re.compile(r'\s|^"')


def of_counts(counts: Iterable[TypeCounts]) -> Iterator[Finding]:
    """What is wrong with a type."""
    for one in counts:
        suspects = one.quarantined + one.isolated
        waiting = one.ready + one.delayed + one.blocked + suspects
        if waiting and not one.handled:
            yield problem(
                f"{_of_type(waiting, one)} wait, but no listening process handles that type.",
                "Start the app that does, or put its consumer into KvQueueModule(consumers=[…]); "
                f"or throw it away: kvqueue ls {_search(one.type)}, kvqueue cancel.",
            )
        if waiting and one.paused:
            yield warning(
                f"{_of_type(waiting, one)} wait, because the type is paused.",
                f"When its reason is gone: kvqueue resume {shlex.quote(one.type)}.",
            )
        if suspects:
            yield problem(
                f"{_of_type(suspects, one)} were in hand when their process died, twice or more.",
                f"See which: kvqueue ls {_search(one.type)} --state quarantined, or isolated; and "
                "read what the process said last.",
            )
        if one.dead:
            yield warning(
                f"{_of_type(one.dead, one)} were given up.",
                f"Read why: kvqueue dead ls {_search(one.type)}.",
            )
        if one.oldest_age_s is not None and one.oldest_age_s < -WRONG_CLOCK_S:
            yield warning(
                f"A message of type {one.type} was sent {duration(-one.oldest_age_s)} from now.",
                "Look at the clocks: one was ahead, or this one is behind.",
            )


def of_misfits(misfits: Sequence[tuple[MessageRecord, str]], *, limit: int) -> Iterator[Finding]:
    """Which messages wait that their handler would refuse."""
    for record, why in misfits:
        yield problem(
            f"Message {record.id} of type {record.type} would not be taken by its handler: {why}",
            "Let the model accept what was sent before; or let it die and mend it: "
            f"kvqueue dead requeue {record.id} --data JSON.",
        )
    if len(misfits) == limit:
        yield warning(f"There may be more than these {limit}.", "Look again when they are gone.")


def _search(message_type: str) -> str:
    """A type as a shell takes it and as a search reads it."""
    is_split = _SPLIT.search(message_type) is not None
    return shlex.quote(f'type:"{message_type}"' if is_split else f"type:{message_type}")


def _of_type(number: int, one: TypeCounts) -> str:
    return f"Messages of type {one.type} ({number:,})"
