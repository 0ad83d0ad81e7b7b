"""What a handler takes: its parameters, planned from its type hints at start-up."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Annotated, Any, Final, NoReturn, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as resolve_hints

from injector import Inject
from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.table import Default, Given, Injected, Parameters, Source
from kvqueue_fastapi.message import Message

_INJECT: Final = get_args(Inject[int])[1]
_VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_UNION: Final = (Union, types.UnionType)


def plan_parameters(
    function: Callable[..., Any], *, name: str, is_method: bool = False
) -> Parameters:
    """Read from a handler's signature what it takes.

    A parameter annotated `Message` or `Message[T]` takes the message, each `Inject[X]` comes
    from the container. Of the others, the one without a default is the payload. If all have
    defaults, a single one is the payload. Where there is a payload, the others keep their
    defaults. A payload without annotation is the plain JSON value.

    Args:
        function: as the class body holds it, out of its staticmethod or classmethod.
        name: names the handler in errors: "OrderService.send_receipt".
        is_method: whether the first parameter is `self` or `cls`.

    Raises:
        HandlerError: a parameter cannot be given what it asks for.
    """
    plan = _Plan(name)
    hints = _Hints(name, function)
    for parameter in _parameters(function, name, is_method=is_method):
        plan.add(parameter, hints.resolve(parameter.name))
    _refuse_claims(function, plan)
    payload = plan.choose_payload()
    sources = {n: plan.source(p, payload) for n, p in plan.parameters.items()}
    named = {n for n, p in plan.parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    return Parameters(
        positional=tuple(source for n, source in sources.items() if n not in named),
        keyword={n: source for n, source in sources.items() if n in named},
        payload=payload,
        message=plan.message,
        injected=plan.injected,
        adapter=plan.adapter(payload),
    )


@dataclass
class _Plan:
    """The parameters of one handler, sorted by what they ask for."""

    handler: str
    parameters: dict[str, Parameter] = field(default_factory=dict[str, Parameter])
    injected: dict[str, Any] = field(default_factory=dict[str, Any])
    candidates: dict[str, Any] = field(default_factory=dict[str, Any])
    message: str | None = None
    message_hint: Any = Any

    def add(self, parameter: Parameter, hint: Any) -> None:
        """Sort a parameter in by its hint."""
        name = parameter.name
        self._refuse(parameter, hint)
        self.parameters[name] = parameter
        if _is_inject(hint):
            self.injected[name] = _interface(hint)
        elif _is_message(hint):
            if self.message is not None:
                self.fail(name, f"takes the message, as {self.message!r} does", "Keep one")
            self.message = name
            self.message_hint = next(iter(get_args(_plain(hint))), Any)
        else:
            self.candidates[name] = hint

    def choose_payload(self) -> str | None:
        required = [n for n in self.candidates if self.parameters[n].default is Parameter.empty]
        chosen = required or list(self.candidates)
        if len(chosen) > 1:
            self.fail(
                chosen[1],
                f"could be the payload, and so could {chosen[0]!r}",
                f"Put both in one model, or write {chosen[1]}: Inject[…] for a service",
            )
        return chosen[0] if chosen else None

    def source(self, parameter: Parameter, payload: str | None) -> Source:
        name = parameter.name
        if name == payload:
            return Given.PAYLOAD
        if name == self.message:
            return Given.MESSAGE
        if name in self.injected:
            return Injected(self.injected[name])
        return Default(parameter.default)

    def adapter(self, payload: str | None) -> TypeAdapter[Any] | None:
        hint = self.candidates[payload] if payload else Any
        hints = [h for h in (hint, self.message_hint) if h not in (Any, object)]
        where = payload or self.message or ""
        if not hints:
            return None
        if hints[0] != hints[-1]:
            wanted, given = (_text(h) for h in hints)
            self.fail(where, f"is {wanted}, but the message is Message[{given}]", "Write Message")
        if isinstance(hints[0], TypeVar):
            self.fail(where, "is a type variable", "Override the method with the real type")
        return self._adapter(where, hints[0])

    def _adapter(self, name: str, hint: Any) -> TypeAdapter[Any]:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
            if not getattr(adapter, "pydantic_complete", True):
                adapter.rebuild()
        except (PydanticUserError, PydanticUndefinedAnnotation) as exc:
            remedy = "Use a pydantic model, a dataclass or plain types, or Inject[…] for a service"
            if getattr(exc, "code", None) == "typed-dict-version":
                remedy = "Import TypedDict from typing_extensions; pydantic needs that here"
            # its further sentences are advice for models, not for handlers
            text = str(exc).partition("\n")[0].partition(". ")[0]
            self.fail(name, f"is {_text(hint)}, which pydantic cannot read: {text}", remedy, exc)
        return adapter

    def _refuse(self, parameter: Parameter, hint: Any) -> None:
        name = parameter.name
        if parameter.kind in _VARIADIC:
            stars = "*" if parameter.kind is Parameter.VAR_POSITIONAL else "**"
            self.fail(name, f"is {stars}{name}", "Name it; a wrapper needs functools.wraps")
        if _is_of_fastapi(parameter.default) or any(map(_is_of_fastapi, _extras(hint))):
            self.fail(name, "is for routes only: no request is here", f"Write {name}: Inject[…]")
        if get_origin(_plain(hint)) in _UNION:
            for member in get_args(_plain(hint)):
                if _is_inject(member) or _is_message(member):
                    remedy = f"Write {name}: {_text(member)}, without the union"
                    self.fail(name, "is optional, but is always given", remedy)

    def fail(
        self, name: str, what: str, remedy: str, cause: BaseException | None = None
    ) -> NoReturn:
        msg = f"{self.handler}: parameter {name!r} {what}. {remedy}."
        raise HandlerError(msg) from cause


class _Hints:
    """The type hints of a function, resolved one by one, so that an error can name its own."""

    def __init__(self, handler: str, function: Any) -> None:
        while isinstance(function, functools.partial):
            function = function.func
        self._handler = handler
        self._hints: Mapping[str, Any] = getattr(function, "__annotations__", {})
        # where `functools.wraps` hides it, the names are those of the inner function
        self._globals: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})

    def resolve(self, name: str) -> Any:
        if name not in self._hints:
            return Any
        alone = types.SimpleNamespace(__annotations__={name: self._hints[name]})
        try:
            return resolve_hints(alone, self._globals, include_extras=True)[name]
        except (NameError, AttributeError, SyntaxError, TypeError) as exc:
            msg = (
                f"{self._handler}: the type of parameter {name!r}, {self._hints[name]!r}, cannot "
                f"be resolved: {exc}. Import it at the top of the module, not under TYPE_CHECKING."
            )
            raise HandlerError(msg) from exc


def _parameters(function: Callable[..., Any], name: str, *, is_method: bool) -> Iterator[Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if is_method:
        if not parameters or parameters[0].kind not in (
            Parameter.POSITIONAL_ONLY,
            Parameter.POSITIONAL_OR_KEYWORD,
        ):
            msg = f"{name} takes no `self`. Add it, or make the method a staticmethod."
            raise HandlerError(msg)
        del parameters[0]
    yield from parameters


def _refuse_claims(function: Any, plan: _Plan) -> None:
    bindings: Any = getattr(function, "__bindings__", ())
    claimed = [n for n in plan.parameters if bindings == "deferred" or n in bindings]
    for name in claimed:
        if name not in plan.injected:
            plan.fail(
                name, "is claimed by @inject", "Take @inject off and write Inject[…] for a service"
            )


def _extras(hint: Any) -> tuple[Any, ...]:
    return tuple(hint.__metadata__) if get_origin(hint) is Annotated else ()


def _plain(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_inject(hint: Any) -> bool:
    return any(extra is _INJECT for extra in _extras(hint))


def _interface(hint: Any) -> Any:
    # Inject[Annotated[X, "key"]] is flat: what stands before the marker belongs to the interface
    interface = _plain(hint)
    for extra in _extras(hint):
        if extra is _INJECT:
            break
        interface = Annotated[interface, extra]
    return interface


def _is_message(hint: Any) -> bool:
    plain = _plain(hint)
    return plain is Message or get_origin(plain) is Message


def _is_of_fastapi(value: Any) -> bool:
    return any(
        cls.__module__.partition(".")[0] in {"fastapi", "fastapi_injector"}
        for cls in type(value).__mro__
    )


def _text(hint: Any) -> str:
    if _is_inject(hint):
        return f"Inject[{_text(_interface(hint))}]"
    return str(getattr(hint, "__name__", None) or hint).replace("typing.", "")
