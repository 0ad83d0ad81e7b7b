"""A page of records, and the cursor that leads to the next one."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.keeper import MessageRecord

MAX_LIMIT: Final = 1_000
MAX_ID: Final = (1 << 63) - 1
MIN_ID: Final = -(1 << 63)
"""Ours are above 0, but a foreign program may store any."""


class Page(tuple[MessageRecord, ...]):  # noqa: SLOT001 because tuples cannot have named slots
    """A sequence of records, and where the next ones begin.

    Attributes:
        next_cursor: to be given as `cursor`; None: these were the last.
    """

    next_cursor: str | None

    def __new__(cls, records: Iterable[MessageRecord], next_cursor: str | None) -> Self:
        """Make a page."""
        page = super().__new__(cls, records)
        page.next_cursor = next_cursor
        return page


def page_of(records: Sequence[MessageRecord], limit: int) -> Page:
    """The first `limit` of records, of which there is one more where there is a next page."""
    first = records[:limit]
    cursor = _cursor(first[-1].id) if len(records) > limit else None
    return Page(first, cursor)


def after_of(cursor: str | None, *, reverse: bool = False) -> int:
    """The id behind which a page begins.

    Raises:
        InvalidOptionError: the cursor is none.
    """
    if cursor is None:
        return MAX_ID if reverse else MIN_ID
    try:
        after = int(base64.urlsafe_b64decode(cursor.encode("ascii")))
    except (ValueError, binascii.Error, AttributeError):
        after = MAX_ID + 1
    if not MIN_ID <= after <= MAX_ID:
        msg = f"cursor {shown(cursor)} is none. Give the next_cursor of a page, or leave it out."
        raise InvalidOptionError(msg)
    return after


def one_more(limit: Any) -> int:
    """How many records to read for a page: one more tells whether there is a next page.

    Raises:
        InvalidOptionError: the limit is none.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        msg = f"limit is {shown(limit)}, allowed is 1 to {MAX_LIMIT}. Page with next_cursor."
        raise InvalidOptionError(msg)
    return int(limit) + 1


def _cursor(message_id: int) -> str:
    return base64.urlsafe_b64encode(str(message_id).encode()).decode()
