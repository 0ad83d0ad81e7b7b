"""Nothing of a payload is lost without a word."""

import math
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_serializer, model_serializer
from pydantic.dataclasses import dataclass as checked

from kvqueue_fastapi.codec import decode_payload, encode_payload
from kvqueue_fastapi.errors import PayloadError

LIMIT = 65_536


class Reading(BaseModel):
    degrees: float | None
    by_hour: dict[int | str, float] = Field(default_factory=dict)
    inner: "list[Reading]" = Field(default_factory=list)


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")

    degrees: float


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")

    degrees: float


class Excluding(BaseModel):
    degrees: float = Field(exclude=True)
    note: str | None = None


class Deliberate(BaseModel):
    degrees: float

    @field_serializer("degrees", when_used="json")
    def dump(self, degrees: float) -> float | None:
        return degrees if math.isfinite(degrees) else None


class Custom(BaseModel):
    names: list[Any]

    @model_serializer
    def dump(self) -> dict[Any, int]:
        return dict.fromkeys(self.names, 1)


class Alike(BaseModel):
    a: list[int] = Field(serialization_alias="x")
    b: list[int] = Field(serialization_alias="x")


class Letter(Enum):
    A = "a"


@checked
class Checked:
    degrees: float


@dataclass
class Plain:
    degrees: float


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({1: "a", "1": "b"}, "'1'"),
        ({"deep": [{True: 1, "true": 2}]}, "'true'"),
        ({None: 1, "None": 2}, "'None'"),
        ({b"k": 1, "k": 2}, "'k'"),
        ({Letter.A: 1, "a": 2}, "'a'"),
        ({date(2026, 5, 1): 1, "2026-05-01": 2}, "'2026-05-01'"),
        ({UUID(int=5): 1, str(UUID(int=5)): 2}, "'00000000-"),
        (Reading(degrees=1, by_hour={1: 1.0, "1": 2.0}), "'1'"),
        ([Reading(degrees=1, inner=[Reading(degrees=1, by_hour={1: 1, "1": 2})])], "'1'"),
        (RootModel[dict[Any, int]]({1: 1, "1": 2}), "'1'"),
        (Custom(names=["1", 1]), "'1'"),
        (Alike(a=[1], b=[2]), "'x'"),
    ],
)
def test_keys_that_json_writes_alike_are_refused_by_name(data: Any, name: str) -> None:
    with pytest.raises(PayloadError, match=f"two keys that JSON writes alike, {name}"):
        encode_payload(data, LIMIT)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (Reading(degrees=math.nan), "degrees is nan"),
        (Reading(degrees=-math.inf), "degrees is -inf"),
        (Reading(degrees=None, by_hour={1: math.inf}), "by_hour.1 is inf"),
        ([1, {"a": Reading(degrees=math.nan)}], "1.a.degrees is nan"),
        (Reading(degrees=1, inner=[Reading(degrees=math.nan)]), "inner.0.degrees is nan"),
        (Checked(math.nan), "degrees is nan"),
        (RootModel[float](math.nan), "it is nan"),
        (RootModel[list[float]]([1.0, math.nan]), "1 is nan"),
    ],
)
def test_float_of_a_model_that_would_become_null_is_refused_by_name(data: Any, where: str) -> None:
    with pytest.raises(PayloadError, match=f"{where}, which its model writes as null") as caught:
        encode_payload(data, LIMIT)

    assert 'ser_json_inf_nan="constants"' in str(caught.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (math.nan, "NaN"),
        ({"a": [math.inf, None]}, '{"a":[Infinity,null]}'),
        (Constants(degrees=math.nan), '{"degrees":NaN}'),
        (Strings(degrees=math.nan), '{"degrees":"NaN"}'),
        (Plain(math.nan), '{"degrees":NaN}'),
        (Excluding(degrees=math.nan), '{"note":null}'),
        (Deliberate(degrees=math.nan), '{"degrees":null}'),
        (Reading(degrees=None), '{"degrees":null,"by_hour":{},"inner":[]}'),
        ({1: "a", "2": "b"}, '{"1":"a","2":"b"}'),
        ([{"a": 1}, {"a": 2}], '[{"a":1},{"a":2}]'),
        ((number for number in range(2)), "[0,1]"),
    ],
)
def test_what_keeps_its_meaning_is_taken(data: Any, text: str) -> None:
    assert encode_payload(data, LIMIT) == text


keys = st.one_of(
    st.integers(-2, 2),
    st.booleans(),
    st.none(),
    st.sampled_from(["0", "1", "-1", "true", "None", "a"]),
)
leaves = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.floats(allow_nan=False))
trees: st.SearchStrategy[Any] = st.deferred(
    lambda: leaves | st.lists(trees, max_size=3) | st.dictionaries(keys, trees, max_size=4)
)


def entries(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(entries, value.values()))
    return sum(map(entries, value)) if isinstance(value, list) else 0


def sent(data: Any) -> str | None:
    """The stored text; None: it was refused, as it had to be."""
    try:
        return encode_payload(data, LIMIT)
    except PayloadError as error:
        return None if "writes alike" in str(error) else pytest.fail(str(error))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(trees)
def test_all_entries_come_back_or_the_payload_is_refused(data: Any) -> None:
    text = sent(data)

    assert text is None or entries(decode_payload(text, None)) == entries(data)


def test_large_dict_beside_a_float_that_is_lost_is_looked_through_once() -> None:
    by_hour: dict[int | str, float] = dict.fromkeys(map(str, range(100_000)), 1.0)

    with pytest.raises(PayloadError, match="degrees is nan"):
        encode_payload(Reading(degrees=math.nan, by_hour=by_hour), 1 << 24)


def test_model_that_was_made_without_its_own_constructor_is_encoded() -> None:
    reading = Reading.__new__(Reading)
    object.__setattr__(reading, "__dict__", {"degrees": 1.5})
    object.__setattr__(reading, "__pydantic_fields_set__", {"degrees"})

    assert encode_payload(reading, LIMIT) == '{"degrees":1.5}'
