"""What JSON would lose without a word: names that become one, floats that become null or inf."""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import from_json, to_json, to_jsonable_python

_ZERO: Final = re.compile(r"-?0\.?0*(?:[eE]|$)")
_SCALARS: Final = frozenset(
    {str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, Decimal, UUID}
)


def loss_of(data: Any, encoded: bytes) -> str | None:
    """Tell what a reader would miss; None: nothing.

    Args:
        data: the value.
        encoded: what `to_json` made of it, which can be read back.
    """
    if _is_flat(data, encoded):
        return None
    plain = to_jsonable_python(data, round_trip=True, by_alias=True)
    # Entries of one name have become one in it, and floats are still floats.
    if to_json(plain) == encoded:
        return None
    return _twice(encoded) or next(_emptied(from_json(encoded), plain, ""), None)


def read_typed(text: str) -> Any:
    """Read JSON that somebody has typed; NaN and Infinity may stand in it, as they can be stored.

    Raises:
        json.JSONDecodeError: it is none.
        ValueError: some of it would be lost: a name twice, a number too large.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_each_once, parse_float=_finite, parse_int=_whole)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            msg = f"the name {json.dumps(name)[:80]} is there twice in one object. Leave one"
            raise ValueError(msg)
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    is_small = not number and not _ZERO.match(text)
    if is_small or math.isinf(number):
        size = "small" if is_small else "large"
        msg = f"the number {text[:40]} is too {size} for a float. Write it as a string"
        raise ValueError(msg)
    return number


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        msg = (
            f"the number {text[:40]} has {len(text.lstrip('-'))} digits, the limit is "
            f"{sys.get_int_max_str_digits()}. Write it as a string"
        )
        raise ValueError(msg) from error


def _is_flat(data: Any, encoded: bytes) -> bool:
    """Whether it is seen at a glance that nothing can be lost, as of most payloads."""
    kind: Any = type(data)
    if kind is dict:
        try:
            "".join(data)
        except TypeError:  # a key is no str, and might be written as another one is
            return False
        return _SCALARS.issuperset(map(type, data.values()))
    if _is_model(kind):
        if getattr(data, "__pydantic_extra__", None):
            return False
        if b"null" not in encoded and encoded.count(b"{") == 1 and _names_its_fields(kind):
            return True
        fields = data.__dict__.values()
        # A float of a model that is no number may have become null.
        return _SCALARS.issuperset(map(type, fields)) and not any(map(_is_no_number, fields))
    return kind in _SCALARS


@lru_cache(maxsize=4096)
def _is_model(kind: type) -> bool:
    return issubclass(kind, BaseModel)


@lru_cache(maxsize=4096)
def _names_its_fields(model: type[BaseModel]) -> bool:
    """Whether the names in its JSON are those of its fields: each is there once."""
    if model.__pydantic_decorators__.model_serializers or model.__pydantic_root_model__:
        return False
    names = [field.serialization_alias or name for name, field in model.model_fields.items()]
    return len(set(names)) == len(names)


def _twice(encoded: bytes) -> str | None:
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            found.extend(name for name, count in counts.items() if count > 1)

    json.loads(encoded, object_pairs_hook=note)
    if not found:
        return None
    return f"a dict has two keys that JSON writes alike, {found[0]!r:.80}, and would lose one"


def _emptied(read: Any, plain: Any, at: str) -> Iterator[str]:
    if isinstance(read, dict) and isinstance(plain, dict):
        for name, value in read.items():
            yield from _emptied(value, plain.get(name), f"{at}.{name}")
    elif isinstance(read, list) and isinstance(plain, list):
        for index, (value, other) in enumerate(zip(read, plain, strict=False)):
            yield from _emptied(value, other, f"{at}.{index}")
    elif read is None and _is_no_number(plain):
        yield (
            f"{at.removeprefix('.')[:80] or 'it'} is {plain}, which its model writes as null; "
            'give the model ser_json_inf_nan="constants", or send None'
        )


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
