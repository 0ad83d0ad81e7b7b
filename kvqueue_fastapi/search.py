"""What a keeper types to find messages: `type:order.* key:42 error:Timeout`."""

import re
from dataclasses import dataclass
from typing import Any, Final

from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.keeper import State

FILTERS: Final = ("type", "key", "error", "state")
_WORD: Final = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|([^\s"]\S*))')
_BARE: Final = re.compile(r'[^\s"]\S*')


@dataclass(frozen=True, slots=True)
class Search:
    """Which messages are sought; what is None or "" is not asked for.

    Attributes:
        type: this message type.
        type_pattern: types like this, where each `*` stands for any text.
        ordering_key: this ordering key.
        error: a text that is part of an error.
        state: where the message is.
        text: part of the payload or of an error.
    """

    type: str | None = None
    type_pattern: str | None = None
    ordering_key: str | None = None
    error: str | None = None
    state: State | None = None
    text: str | None = None

    def arguments(self, *, with_state: bool = True) -> dict[str, Any]:
        """What to give to `KvQueueAdmin.messages`, or to `dead_letters` without the state."""
        found: dict[str, Any] = {
            "type": self.type,
            "type_pattern": self.type_pattern,
            "ordering_key": self.ordering_key,
            "error": self.error,
            "search": self.text,
        }
        return {**found, "state": self.state} if with_state else found


def written(search: Search) -> str:
    """What `parse_search` reads as this."""
    filters = {
        "type": search.type or search.type_pattern,
        "key": search.ordering_key,
        "error": search.error,
        "state": search.state,
    }
    parts = [f"{name}:{_value(value)}" for name, value in filters.items() if value]
    text = search.text or ""
    if '"' in text:
        parts += [_quoted(word) if ":" in word else word for word in text.split(" ")]
    elif ":" in text or "  " in text:
        parts.append(_quoted(text))
    elif text:
        parts.append(text)
    return " ".join(parts)


def parse_search(text: str) -> Search:
    """Read `type:order.* key:42 error:Timeout state:delayed free words`, in any order.

    `*` in a type stands for any text. What has spaces is written in quotes, `error:"no such"`,
    and so is what would be a filter: `"type:order"` is looked for as it stands. All other words
    together, with one space between them, must be in the payload, as JSON, or in an error.

    Raises:
        InvalidOptionError: a filter is given twice or is empty, or the state is none.
    """
    filters: dict[str, str] = {}
    words: list[str] = []
    for name, quoted, bare in _WORD.findall(text):
        if not name and bare[:-1] in FILTERS and bare.endswith(":"):
            raise _unclear(bare[:-1], text)
        if name not in FILTERS:
            words.append((f"{name}:" if name else "") + (quoted or bare))
        elif name in filters or not (quoted or bare):
            raise _unclear(name, text)
        else:
            filters[name] = quoted or bare
    has_wildcard = "*" in filters.get("type", "")
    return Search(
        type=None if has_wildcard else filters.get("type"),
        type_pattern=filters.get("type") if has_wildcard else None,
        ordering_key=filters.get("key"),
        error=filters.get("error"),
        state=_state(filters.get("state")),
        text=" ".join(words) or None,
    )


def _value(text: str) -> str:
    return text if _BARE.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    # One that has a quote was written without any around it.
    return text if '"' in text else f'"{text}"'


def _unclear(name: str, text: str) -> InvalidOptionError:
    msg = f"{name}: is given twice or is empty in {shown(text)}. Write {name}:… once."
    return InvalidOptionError(msg)


def _state(name: str | None) -> State | None:
    if name is None:
        return None
    try:
        return State(name.lower())
    except ValueError:
        msg = f"state:{shown(name)} is none, allowed are {', '.join(State)}."
        raise InvalidOptionError(msg) from None
