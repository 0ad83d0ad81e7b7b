"""What the key-value store answers: entries and commits."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from kvqueue_fastapi.errors import PayloadError
from kvqueue_fastapi.keys import Key, KeyPart, decode_key, versionstamp_of
from kvqueue_fastapi.model import Committed, Stored
from kvqueue_fastapi.values import decode_value

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class KvEntry(Generic[T]):
    """A key with what was found under it.

    Attributes:
        key: its parts.
        value: None where the key is absent, and where None was set.
        versionstamp: 20 hex digits that sort as the commits did; None: the key is absent.
    """

    key: tuple[KeyPart, ...]
    value: T | None
    versionstamp: str | None

    def __eq__(self, other: object) -> bool:
        # A listed entry is equal to the same one that was read.
        if not isinstance(other, KvEntry):
            return NotImplemented
        mine, theirs = (self.key, self.value), (other.key, other.value)
        return self.versionstamp == other.versionstamp and mine == theirs

    def __hash__(self) -> int:
        return hash((self.key, self.versionstamp))


@dataclass(frozen=True, slots=True, eq=False)
class KvListEntry(KvEntry[T]):
    """An entry of a list, which is there.

    Attributes:
        value: as it was set.
        versionstamp: 20 hex digits.
    """

    value: T
    versionstamp: str


@dataclass(frozen=True, slots=True)
class KvCommit:
    """What became of a commit; true where `ok` is.

    Attributes:
        ok: False: a check failed, and nothing was written.
        versionstamp: of all keys that it wrote, and larger than any before; None: not `ok`.
        message_ids: of the messages that it sent, in their order.
    """

    ok: bool
    versionstamp: str | None
    message_ids: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


def commit_of(committed: Committed) -> KvCommit:
    """Tell a caller what became of his commit."""
    version = committed.version
    versionstamp = None if version is None else versionstamp_of(version)
    return KvCommit(committed.ok, versionstamp, tuple(committed.message_ids))


def entry_of(
    encoded: bytes, found: Stored | None, adapter: TypeAdapter[Any] | None
) -> KvEntry[Any]:
    """Make an entry of what was found under an encoded key.

    Raises:
        PayloadError: the value cannot be read as this type.
    """
    # As it would be listed, and not as the caller's own parts, which he may change.
    key = decode_key(encoded)
    if found is None:
        return KvEntry(key, None, None)
    return KvEntry(key, _value(found, adapter, key), _versionstamp(found, key))


def list_entry_of(found: Stored, adapter: TypeAdapter[Any] | None) -> KvListEntry[Any]:
    """Make an entry of a key that was found.

    Raises:
        PayloadError: the value cannot be read as this type.
        InvalidKeyError: another program wrote a key that is none.
    """
    key = decode_key(found.key)
    return KvListEntry(key, _value(found, adapter, key), _versionstamp(found, key))


def _value(found: Stored, adapter: TypeAdapter[Any] | None, key: Key) -> Any:
    try:
        return decode_value(found.value, found.encoding, adapter)
    except PayloadError as error:
        msg = f"Key {tuple(key)!r:.200}: {error}"
        raise PayloadError(msg) from error


def _versionstamp(found: Stored, key: Key) -> str:
    if found.version < 0:
        msg = (
            f"Key {tuple(key)!r:.200}: its version is {found.version}, allowed is 0 or more. "
            "Another program wrote it; delete the key."
        )
        raise PayloadError(msg)
    return versionstamp_of(found.version)
