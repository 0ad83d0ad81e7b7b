"""What a message carries, as stored text and back."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from threading import Lock
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from pydantic import Base64Bytes, BaseModel, Field, TypeAdapter, field_serializer, field_validator
from typing_extensions import TypedDict

from kvqueue_fastapi.codec import (
    canonical_digest,
    checked_headers,
    decode_options,
    decode_payload,
    encode_options,
    encode_payload,
)
from kvqueue_fastapi.errors import InvalidOptionError, PayloadError, PayloadTooLargeError
from kvqueue_fastapi.model import Options

LIMIT = 65_536
MOMENT = datetime(2026, 5, 1, 12, 30, 0, 250, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


class Line(BaseModel):
    sku: str
    price: Decimal


class Order(BaseModel):
    order_id: int = Field(alias="orderId")
    placed: datetime
    lines: list[Line]


class Blob(BaseModel):
    raw: Base64Bytes


@dataclass
class Point:
    x: int
    y: float


class Pair(NamedTuple):
    left: int
    right: str


class Named(TypedDict):
    name: str


class Awkward(BaseModel):
    value: int

    @field_serializer("value")
    def serialise(self, value: int) -> int:
        raise KeyError(value)

    @field_validator("value")
    @classmethod
    def validate_value(cls, value: int) -> int:
        if value < 0:
            raise LookupError(value)
        return value


ORDER = Order(orderId=7, placed=MOMENT, lines=[Line(sku="a", price=Decimal("1.10"))])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, ORDER),
        (list[Order], [ORDER]),
        (Blob, Blob(raw=b"/wA=")),
        (Point, Point(1, 2.5)),
        (Pair, Pair(1, "é")),
        (Named, {"name": "日本"}),
        (dict[int, Line], {1: ORDER.lines[0]}),
        (datetime, MOMENT),
        (date, MOMENT.date()),
        (timedelta, timedelta(days=1, microseconds=3)),
        (UUID, UUID(int=5)),
        (Decimal, Decimal("0.30")),
        (Colour, Colour.RED),
        (bytes, "é\0".encode()),
        (set[int], {1, 2}),
        (float, float("inf")),
        (int, 2**80),
    ],
)
def test_value_comes_back_through_the_adapter_of_its_type(kind: Any, value: Any) -> None:
    text = encode_payload(value, LIMIT)

    assert decode_payload(text, TypeAdapter(kind)) == value


@pytest.mark.parametrize(
    "value", [None, True, 0, -1.5, "", "é\0\n", [], {}, {"a": [1, {"b": None}]}, 2**63]
)
def test_json_values_come_back_as_they_are_without_an_adapter(value: Any) -> None:
    text = encode_payload(value, LIMIT)

    decoded = decode_payload(text, None)

    assert decoded == value
    assert type(decoded) is type(value)


def test_model_is_stored_by_alias() -> None:
    assert json.loads(encode_payload(ORDER, LIMIT))["orderId"] == 7


def test_payload_may_take_the_limit_and_not_a_byte_more() -> None:
    largest = encode_payload("é" * 49, 100)

    with pytest.raises(PayloadTooLargeError) as caught:
        encode_payload("é" * 49 + "a", 100)

    assert len(largest.encode()) == 100
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (101, 100)


def self_referencing() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (print, "builtin_function_or_method"),
        (Lock(), "lock"),
        (object(), "object"),
        ({"a": object()}, "dict"),
        (self_referencing(), "list"),
        ("\ud800", "str"),
        ({"\ud800": 1}, "dict"),
        (b"\xff", "bytes"),
        (ValueError("x"), "ValueError"),
        (Awkward(value=1), "Awkward"),
        (nested(100_000, lambda value: [value]), "list"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_value_that_is_no_json_is_named_by_its_type(value: Any, name: str) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_payload(value, LIMIT)

    assert str(caught.value).startswith(f"Payload of type {name} cannot be encoded as JSON: ")
    assert "Send models, dataclasses, dicts" in str(caught.value)
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_nesting_that_could_be_written_but_not_read_is_refused(wrap: Callable[[Any], Any]) -> None:
    deepest = encode_payload(nested(200, wrap), LIMIT)

    with pytest.raises(PayloadError, match="200 levels are the limit"):
        encode_payload(nested(201, wrap), LIMIT)

    assert decode_payload(deepest, None) == nested(200, wrap)


def test_many_brackets_are_not_deep_nesting() -> None:
    value = [{"text": "[{" * 300}, *([[]] * 300)]

    assert decode_payload(encode_payload(value, LIMIT), None) == value


def test_payload_that_does_not_fit_names_at_most_three_problems() -> None:
    text = json.dumps({"orderId": "x", "placed": "never", "lines": [{}, {"sku": 5}]})

    with pytest.raises(PayloadError) as caught:
        decode_payload(text, TypeAdapter(Order))

    assert str(caught.value).startswith(
        "Payload does not fit Order: orderId: Input should be a valid integer"
    )
    assert "; lines.0.sku: Field required (and 3 more). Send" in str(caught.value)


def test_values_that_do_not_fit_stay_out_of_the_error() -> None:
    with pytest.raises(PayloadError) as caught:
        decode_payload('{"name": ["secret"]}', TypeAdapter(Named))

    assert "name: Input should be a valid string" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "x", "[1", '"\\ud800"', "\ud800", "[" * 100_000])
@pytest.mark.parametrize("adapter", [None, TypeAdapter(int)])
def test_text_that_is_no_json_is_a_payload_error(text: str, adapter: TypeAdapter[Any]) -> None:
    with pytest.raises(PayloadError, match=r"^Payload (cannot be decoded|does not fit int): ."):
        decode_payload(text, adapter)


def test_validator_that_breaks_is_a_payload_error() -> None:
    with pytest.raises(PayloadError, match="cannot be decoded: LookupError: -1") as caught:
        decode_payload('{"value": -1}', TypeAdapter(Awkward))

    assert isinstance(caught.value.__cause__, LookupError)


def test_digest_leaves_the_order_of_keys_and_white_space_out() -> None:
    one = canonical_digest('{"a": 1, "b": {"c": "é", "d": null}}')
    same = canonical_digest('{"b":{"d":null,"c":"\\u00e9"},"a":1}')
    others = [canonical_digest(text) for text in ('{"a":1}', "1", '"1"', "[1,2]", "[2,1]", "NaN")]

    assert one == same
    assert len(one) == 32
    assert len({one, *others}) == 7


@pytest.mark.parametrize("text", ["", "x", "\ud800", "[" * 100_000, "9" * 5_000])
def test_digest_takes_any_text(text: str) -> None:
    assert len(canonical_digest(text)) == 32


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (Options(), None),
        (Options(headers={"a": "é"}), '{"headers":{"a":"é"}}'),
        (Options(backoff_schedule_ms=()), '{"backoff_schedule_ms":[]}'),
        (Options(backoff_schedule_ms=(100, 0)), '{"backoff_schedule_ms":[100,0]}'),
        (Options(keys_if_undelivered=(b"\x02a\0",)), '{"keys_if_undelivered":["026100"]}'),
    ],
)
def test_options_come_back_and_absent_ones_take_no_room(options: Options, text: str | None) -> None:
    stored = encode_options(options)

    assert stored == text
    assert decode_options(stored) == options


def test_all_options_come_back_together() -> None:
    options = Options({"a": "1"}, tuple(range(20)), (b"\xff", b"\0"))

    assert decode_options(encode_options(options)) == options


def test_option_of_a_newer_version_is_ignored() -> None:
    assert decode_options('{"headers":{"a":"1"},"colour":"red"}') == Options({"a": "1"})


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "null", "[]", "5", '"a"', "{", "NaN", "\ud800", "[" * 100_000,
        '{"headers":[]}', '{"headers":{"a":1}}', '{"headers":null}',
        '{"backoff_schedule_ms":5}', '{"backoff_schedule_ms":[-1]}',
        '{"backoff_schedule_ms":[1.5]}', '{"backoff_schedule_ms":[true]}',
        '{"backoff_schedule_ms":["1"]}', '{"backoff_schedule_ms":[NaN]}',
        '{"backoff_schedule_ms":[Infinity]}', '{"backoff_schedule_ms":[1e999]}',
        '{"backoff_schedule_ms":[86400001]}', '{"backoff_schedule_ms":[' + "9" * 5_000 + "]}",
        '{"backoff_schedule_ms":[1' + ",1" * 20 + "]}",
        '{"keys_if_undelivered":["0"]}', '{"keys_if_undelivered":["é"]}',
        '{"keys_if_undelivered":[1]}', '{"keys_if_undelivered":"ff"}',
    ],
)  # fmt: skip
def test_foreign_options_are_a_payload_error(text: str) -> None:
    with pytest.raises(PayloadError, match=r"^Options of a message cannot be decoded: ."):
        decode_options(text)


@pytest.mark.parametrize("foreign", [5, 1.5, b"\xff", [], {}])
def test_options_of_another_column_type_are_a_payload_error(foreign: Any) -> None:
    with pytest.raises(PayloadError):
        decode_options(foreign)


def test_headers_are_copied() -> None:
    given = {"trace": "00-ab", "empty": ""}

    headers = checked_headers(given)

    assert headers == given
    assert headers is not given
    assert checked_headers(None) == checked_headers({}) == {}


@pytest.mark.parametrize("headers", [{1: "a"}, {"a": 1}, {"a": None}, {"": "a"}, {b"a": "a"}])
def test_header_that_is_no_text_is_named(headers: Any) -> None:
    ((name, value),) = headers.items()

    with pytest.raises(InvalidOptionError) as caught:
        checked_headers(headers)

    assert f"Header {name!r} has the value {value!r}: names are str" in str(caught.value)


@pytest.mark.parametrize("headers", ["a", 5, ["a"], [("a", "b")], True])
def test_headers_that_are_no_mapping_are_refused(headers: Any) -> None:
    with pytest.raises(InvalidOptionError, match="Headers must be a mapping of str to str"):
        checked_headers(headers)


def test_header_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="is no valid text"):
        checked_headers({"a": "\ud800"})


def test_headers_may_take_8_kib_together() -> None:
    most = {"a": "é" * 2_048, "b": "x" * 4_094}

    with pytest.raises(InvalidOptionError, match="Headers take 8193 bytes, the limit is 8192"):
        checked_headers({**most, "c": ""})

    assert checked_headers(most) == most
