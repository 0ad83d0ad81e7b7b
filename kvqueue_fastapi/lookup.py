"""Messages as they may be shown, found by nothing that may not."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from pydantic_core import to_json

from kvqueue_fastapi.keeper import MessageRecord, Query
from kvqueue_fastapi.redaction import Redaction

LEAST_READ: Final = 100
"""How many records to read at a time where most may not be what is sought."""

Read = Callable[[Query], Awaitable[list[MessageRecord]]]


class Lookup:
    """Looks messages up.

    Args:
        redaction: what may be shown of them.
    """

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    async def find(self, read: Read, query: Query) -> list[MessageRecord]:
        """What a query finds, as it may be shown; `read` asks the store."""
        if (query.search is None and query.error is None) or not self._redaction.hides:
            return await self.as_shown(await read(query))
        # A search that found what is hidden would tell it, letter by letter.
        found: list[MessageRecord] = []
        part = replace(query, limit=max(query.limit, LEAST_READ))
        while len(found) < query.limit:
            records = await read(part)
            seen = await self.as_shown(records)
            found += [record for record in seen if _has(record, query.search, query.error)]
            if len(records) < part.limit:
                break
            part = replace(part, after=records[-1].id)
        return found[: query.limit]

    async def as_shown(self, records: list[MessageRecord]) -> list[MessageRecord]:
        """The same records without what is hidden."""
        if not self._redaction.hides:
            return records
        # In a thread, because a hook may take its time, and so does JSON for large payloads.
        return await asyncio.to_thread(lambda: [*map(self._redaction.of_record, records)])


def _has(record: MessageRecord, search: str | None, error: str | None) -> bool:
    texts = [failure.text for failure in record.errors]
    traces = [failure.trace for failure in record.errors]
    return _is_in(error, texts) and _is_in(search, [_as_json(record), *texts, *traces])


def _as_json(record: MessageRecord) -> str:
    try:
        return to_json(record.data, fallback=repr).decode()
    except ValueError:
        return repr(record.data)


def _is_in(sought: str | None, texts: Sequence[str]) -> bool:
    return sought is None or any(sought.lower() in text.lower() for text in texts)
