"""Lists of keys: what is selected, and the way through it, batch by batch."""

import asyncio
import binascii
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, Generic, Self, TypeVar

from pydantic import TypeAdapter

from kvqueue_fastapi.entries import KvListEntry, list_entry_of
from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.keys import Key, encode_key_for_read
from kvqueue_fastapi.model import Stored
from kvqueue_fastapi.store.base import Store

DEFAULT_BATCH: Final = 100
LARGEST_DEFAULT_BATCH: Final = 500
MAX_BATCH: Final = 1_000

T = TypeVar("T")

_BEFORE_ALL_PARTS: Final = b"\x00"
_BEHIND_ALL_PARTS: Final = b"\xff"


@dataclass(frozen=True, slots=True)
class Selection:
    """A range of keys.

    Attributes:
        start: the first key that may be in it.
        end: the first key behind it.
        common: what all keys of it begin with; cursors leave it out.
        is_open_at_start: it begins with the prefix alone, so that no cursor lies before it.
        is_open_at_end: likewise.
    """

    start: bytes
    end: bytes
    common: bytes
    is_open_at_start: bool = False
    is_open_at_end: bool = False

    def cursor_at(self, key: bytes) -> str:
        """What resumes behind a key of this range."""
        return urlsafe_b64encode(key[len(self.common) :]).decode()

    def beyond(self, cursor: str, *, reverse: bool) -> "Selection":
        """The rest of this range, behind a cursor.

        Raises:
            InvalidOptionError: the cursor is none, or none of this range.
        """
        key = self.common + _decoded(cursor)
        start, end = (self.start, key) if reverse else (key + _BEFORE_ALL_PARTS, self.end)
        if (start < self.start and not self.is_open_at_start) or (
            end > self.end and not self.is_open_at_end
        ):
            msg = (
                f"cursor out of bounds: {shown(cursor)} is of another list. "
                "Give the cursor with the same prefix, start and end."
            )
            raise InvalidOptionError(msg)
        return Selection(start, end, self.common)


def select(prefix: Key | None, start: Key | None, end: Key | None) -> Selection:
    """Read a selector: a prefix, with a start or an end within it, or a start and an end.

    The prefix itself is not in its range; the start is, and the end is not.

    Raises:
        InvalidOptionError: another combination is given, or they do not fit together.
        InvalidKeyError: one of them is no key.
    """
    if prefix is not None:
        return _within_prefix(encode_key_for_read(prefix), start, end)
    if start is None or end is None:
        msg = (
            "Selector must specify either 'prefix' or both 'start' and 'end' key. "
            "Write prefix=() for all keys."
        )
        raise InvalidOptionError(msg)
    first, behind = encode_key_for_read(start), encode_key_for_read(end)
    if first > behind:
        msg = f"Start key is greater than end key: {shown(start)} > {shown(end)}. Swap them."
        raise InvalidOptionError(msg)
    return Selection(first, behind, _common(first, behind))


class KvList(Generic[T]):
    """The entries of a list: `async for entry in kv.list(prefix=("users",))`.

    Each batch is one read, and what is written meanwhile may be seen by the next.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        selection: Selection,
        *,
        limit: int | None,
        reverse: bool,
        cursor: str | None,
        batch_size: int | None,
        adapter: TypeAdapter[Any] | None,
    ) -> None:
        self._store = store
        self._whole = selection
        self._rest = selection.beyond(cursor, reverse=reverse) if cursor else selection
        self._left = _positive(limit, "Limit")
        self._reverse = reverse
        self._batch_size = _batch_size(self._left, batch_size)
        self._adapter = adapter
        self._batch: list[Stored] = []
        self._is_last_batch = False
        self._reading = asyncio.Lock()
        self._cursor: str | None = None
        self._last: bytes | None = None

    @property
    def cursor(self) -> str:
        """What continues this list behind the entry that came last; "" when none was left.

        A list that stopped at its limit has a cursor even where nothing follows; "" given as a
        cursor begins anew.

        Raises:
            InvalidOptionError: no entry came yet.
        """
        if self._last is not None:
            return self._whole.cursor_at(self._last)
        if self._cursor is None:
            msg = "Cannot get cursor before first iteration. Ask for it after an entry."
            raise InvalidOptionError(msg)
        return self._cursor

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KvListEntry[T]:
        if not self._batch and self._left != 0:
            # One at a time, so that several who take from one list share it.
            async with self._reading:
                if not self._batch and not self._is_last_batch:
                    await self._read_batch()
        if self._left == 0:
            raise StopAsyncIteration
        if not self._batch:
            self._last, self._cursor = None, ""
            raise StopAsyncIteration
        found = self._batch.pop()
        self._last = found.key
        if self._left is not None:
            self._left -= 1
        return list_entry_of(found, self._adapter)

    async def _read_batch(self) -> None:
        size = self._batch_size if self._left is None else min(self._batch_size, self._left)
        rest = self._rest
        batch = await self._store().scan(rest.start, rest.end, limit=size, reverse=self._reverse)
        self._is_last_batch = len(batch) < size
        if batch:
            last = batch[-1].key
            start, end = (rest.start, last) if self._reverse else (last + b"\x00", rest.end)
            self._rest = Selection(start, end, rest.common)
        # The next one is taken from the end.
        self._batch = batch[::-1]


def _common(first: bytes, behind: bytes) -> bytes:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, behind, strict=False))
    common = bytes(byte for byte, _ in alike)
    # Less than a whole key, because the cursor at that key would be "", which is none.
    return common[:-1] if common == first else common


def _within_prefix(prefix: bytes, start: Key | None, end: Key | None) -> Selection:
    first, behind = prefix + _BEFORE_ALL_PARTS, prefix + _BEHIND_ALL_PARTS
    if start is not None and end is not None:
        msg = (
            "Selector can not specify both 'start' and 'end' key when specifying 'prefix'. "
            "Leave one of them out."
        )
        raise InvalidOptionError(msg)
    if start is not None:
        first = _in_keyspace(prefix, start, "Start")
    if end is not None:
        behind = _in_keyspace(prefix, end, "End")
    return Selection(first, behind, prefix, start is None, end is None)


def _in_keyspace(prefix: bytes, key: Key, name: str) -> bytes:
    encoded = encode_key_for_read(key)
    if not encoded.startswith(prefix) or len(encoded) == len(prefix):
        msg = (
            f"{name} key is not in the keyspace defined by prefix: {shown(key)}. "
            "Begin it with the prefix, and add a part."
        )
        raise InvalidOptionError(msg)
    return encoded


def _decoded(cursor: Any) -> bytes:
    try:
        return b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        msg = f"invalid cursor: {shown(cursor)}. Give what `.cursor` of a list gave."
        raise InvalidOptionError(msg) from error


def _positive(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name} must be a positive integer: received {shown(value)}. Leave it out for all."
        raise InvalidOptionError(msg)
    return value


def _batch_size(limit: int | None, batch_size: Any) -> int:
    size = _positive(batch_size, "batchSize")
    if size is None:
        return min(limit or DEFAULT_BATCH, LARGEST_DEFAULT_BATCH)
    if size > MAX_BATCH:
        msg = f"Too many entries (max {MAX_BATCH}): batch_size is {size}. Read in smaller batches."
        raise InvalidOptionError(msg)
    return size
