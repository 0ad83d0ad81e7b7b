import functools
import sys
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import pytest
from fastapi import Depends, Query
from injector import Inject, inject
from pydantic import BaseModel, Field, ValidationError

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.parameters import plan_parameters
from kvqueue_fastapi.handlers.table import Default, Given, Injected, Parameters
from kvqueue_fastapi.message import Message

if TYPE_CHECKING:
    from elsewhere import Unseen

T = TypeVar("T")


class Order(BaseModel):
    id: int


class Mailer: ...


def plan(function: Callable[..., Any], *, is_method: bool = False) -> Parameters:
    return plan_parameters(function, name="Service.handle", is_method=is_method)


def assert_refused(function: Callable[..., Any], match: str) -> None:
    with pytest.raises(HandlerError, match=match) as caught:
        plan(function)
    assert str(caught.value).startswith("Service.handle: parameter '")


def test_each_parameter_has_its_source() -> None:
    def handle(order: Order, message: Message[Any], mailer: Inject[Mailer]) -> None: ...

    parameters = plan(handle)

    assert parameters.positional == (Given.PAYLOAD, Given.MESSAGE, Injected(Mailer))
    assert (parameters.payload, parameters.message) == ("order", "message")
    assert parameters.injected == {"mailer": Mailer}


def test_the_payload_is_read_as_its_type() -> None:
    def handle(order: Order) -> None: ...

    adapter = plan(handle).adapter

    assert adapter is not None
    assert adapter.validate_json('{"id": 1}') == Order(id=1)


def test_metadata_of_the_payload_counts() -> None:
    def handle(size: Annotated[int, Field(gt=0)]) -> None: ...

    adapter = plan(handle).adapter

    assert adapter is not None
    with pytest.raises(ValidationError):
        adapter.validate_json("0")


def test_no_parameter_is_fine() -> None:
    assert plan(lambda: None) == Parameters()


def test_an_unannotated_payload_is_plain_json() -> None:
    parameters = plan(lambda order: order)

    assert parameters.payload == "order"
    assert parameters.adapter is None


def test_self_is_no_payload() -> None:
    def handle(self: Any, order: Order) -> None: ...

    assert plan(handle, is_method=True).payload == "order"


def test_a_method_without_self_is_refused() -> None:
    with pytest.raises(HandlerError, match=r"Service.handle takes no `self`\. Add it"):
        plan(lambda: None, is_method=True)


def test_string_annotations_are_resolved() -> None:
    def handle(order: "Order", mailer: "Inject[Mailer]", message: "Message[Order]") -> None: ...

    assert plan(handle).positional == (Given.PAYLOAD, Injected(Mailer), Given.MESSAGE)


def test_an_unresolved_name_is_refused() -> None:
    def handle(order: "Unseen") -> "AlsoUnseen": ...  # noqa: F821

    with pytest.raises(HandlerError, match=r"'order', 'Unseen'.*TYPE_CHECKING"):
        plan(handle)


def test_an_unresolved_return_type_does_no_harm() -> None:
    def handle(order: Order) -> "Unseen": ...

    assert plan(handle).payload == "order"


def test_the_type_of_the_message_reads_the_payload_where_no_other_parameter_does() -> None:
    def handle(message: Message[Order]) -> None: ...

    adapter = plan(handle).adapter

    assert adapter is not None
    assert adapter.validate_json('{"id": 1}') == Order(id=1)


def test_payload_and_message_may_agree() -> None:
    def handle(order: Order, message: Message[Order]) -> None: ...

    assert plan(handle).adapter is not None


def test_payload_and_message_of_different_types_are_refused() -> None:
    def handle(order: Order, message: Message[int]) -> None: ...

    assert_refused(handle, r"'order' is Order, but the message is Message\[int\]\. Write Message")


def test_two_payloads_are_refused() -> None:
    def handle(order: Order, mailer: Mailer) -> None: ...

    assert_refused(
        handle, r"'mailer' could be the payload, and so could 'order'.*mailer: Inject\[…\]"
    )


def test_two_payloads_with_defaults_are_refused() -> None:
    def handle(order: int = 1, size: int = 2) -> None: ...

    assert_refused(handle, "'size' could be the payload, and so could 'order'")


def test_two_messages_are_refused() -> None:
    def handle(first: Message[Any], second: Message[Any]) -> None: ...

    assert_refused(handle, "'second' takes the message, as 'first' does")


def test_beside_a_payload_others_keep_their_defaults() -> None:
    def handle(retries: int = 3, *, order: Order, size: int = 2) -> None: ...

    parameters = plan(handle)

    assert parameters.positional == (Default(3),)
    assert parameters.keyword == {"order": Given.PAYLOAD, "size": Default(2)}


def test_a_single_parameter_with_a_default_is_the_payload() -> None:
    def handle(order: Order | None = None) -> None: ...

    assert plan(handle).payload == "order"


def test_a_positional_only_payload_is_fine() -> None:
    def handle(order: Order, /) -> None: ...

    assert plan(handle).positional == (Given.PAYLOAD,)


def test_an_optional_injection_is_refused() -> None:
    def handle(order: Order, mailer: Inject[Mailer] | None = None) -> None: ...

    assert_refused(handle, r"'mailer' is optional.*Write mailer: Inject\[Mailer\], without")


def test_an_optional_message_is_refused() -> None:
    def handle(message: typing.Optional[Message] = None) -> None: ...  # noqa: UP045

    assert_refused(handle, "'message' is optional.*Write message: Message, without")


def test_an_annotated_interface_is_asked_for_as_a_whole() -> None:
    def handle(mailer: Inject[Annotated[Mailer, "backup"]]) -> None: ...

    assert plan(handle).injected == {"mailer": Annotated[Mailer, "backup"]}


def test_what_only_routes_have_is_refused() -> None:
    def default(order: Order, mailer: Any = Depends(Mailer)) -> None: ...  # noqa: B008
    def annotated(order: Order, mailer: Annotated[Mailer, Depends()]) -> None: ...
    def query(order: Annotated[int, Query()]) -> None: ...

    assert_refused(default, r"'mailer' is for routes only.*mailer: Inject\[…\]")
    assert_refused(annotated, "'mailer' is for routes only")
    assert_refused(query, "'order' is for routes only")


def test_inject_on_a_handler_is_refused() -> None:
    @inject
    def handle(order: Order, mailer: Mailer) -> None: ...

    @inject
    def later(order: "Later") -> None: ...

    with pytest.raises(HandlerError, match=r"'order' is claimed by @inject\. Take @inject off"):
        plan(handle)
    assert_refused(later, "'order' is claimed by @inject")


class Later(BaseModel): ...


def test_stars_are_refused() -> None:
    assert_refused(
        lambda *args: args, r"'args' is \*args\. Name it; a wrapper needs functools.wraps"
    )
    assert_refused(lambda **named: named, r"'named' is \*\*named")


def test_a_wrapper_is_planned_as_what_it_wraps() -> None:
    def handle(order: Order) -> None: ...

    @functools.wraps(handle)
    def wrapper(*args: Any) -> None: ...

    assert plan(wrapper).positional == (Given.PAYLOAD,)
    assert plan(wrapper).adapter is not None


def test_a_partial_is_planned_by_what_is_left() -> None:
    def handle(size: int, order: "Order") -> None: ...

    assert plan(functools.partial(handle, 1)).payload == "order"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic reads it from 3.12 on")
def test_a_typeddict_that_pydantic_cannot_read_is_refused() -> None:
    Row = typing.TypedDict("Row", {"id": int})  # noqa: UP013

    def handle(row: Row) -> None: ...

    assert_refused(handle, r"'row' is Row.*Import TypedDict from typing_extensions")


def test_a_type_that_pydantic_cannot_read_is_refused() -> None:
    def handle(mailer: Mailer) -> None: ...

    assert_refused(
        handle, r"'mailer' is Mailer, which pydantic cannot read: .*>\. Use .*Inject\[…\]"
    )


def test_a_model_that_is_not_complete_is_refused() -> None:
    class Half(BaseModel):
        other: "Missing"  # noqa: F821

    def handle(half: Half) -> None: ...

    assert_refused(handle, "'half' is Half, which pydantic cannot read: name 'Missing'")


def test_a_type_variable_is_refused() -> None:
    class Generic_(Generic[T]):  # noqa: N801
        def handle(self, order: T) -> None: ...

    with pytest.raises(HandlerError, match="'order' is a type variable"):
        plan(Generic_.handle, is_method=True)
