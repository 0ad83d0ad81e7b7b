"""What the container does to make a consumer: what it needs, in which scope, what is wrong.

injector has no public list of bindings and no view into its providers, so this module reads
their attributes; it is the only one that does.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, TypeAlias, get_args, get_origin

from injector import (
    AssistedBuilder,
    Binder,
    CallableProvider,
    CallError,
    CircularDependency,
    ClassAssistedBuilder,
    ClassProvider,
    Injector,
    InstanceProvider,
    MultiBinder,
    NoScope,
    ProviderOf,
    SingletonScope,
    UnsatisfiedRequirement,
    get_bindings,
)

from kvqueue_fastapi.errors import HandlerError
from kvqueue_fastapi.handlers.marks import describe

RequestScopes: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]

_LATER: Final = (ProviderOf, AssistedBuilder, ClassAssistedBuilder)
_SYNC_PROVIDER: Final = "Make its provider `def`, and await in the handler what must be awaited."


class Part(NamedTuple):
    """One thing that the container makes on the way to another.

    Attributes:
        key: what it is asked for as.
        needed_by: "OrderService(mailer)": whose parameter it is; "": it is what was asked for.
        provider: what makes it; None: nothing does.
        scope: the scope that it is bound in.
    """

    key: Any
    needed_by: str
    provider: Any
    scope: Any


class Wiring:
    """The bindings of one injector and its parents, read at start-up.

    Attributes:
        request_scope: opens a request scope of fastapi-injector; None: the injector has none.
    """

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._binders = list(_with_parents(injector.binder))
        # not imported, because the app need not have it
        self._scopes: Any = sys.modules.get("fastapi_injector")
        self.request_scope = self._find_request_scope()

    def explicit_keys(self) -> list[Any]:
        """Give what modules bound, the injector's own bindings before its parents'."""
        keys = (key for binder in self._binders for key in vars(binder)["_bindings"])
        return [key for key in dict.fromkeys(keys) if self.is_explicit(key)]

    def is_explicit(self, key: Any) -> bool:
        """Whether a module bound it, so that it is not made just because someone asks."""
        return is_bound(self._injector, key)

    def multibound(self, key: Any) -> list[Any]:
        """Give what all modules contributed to a list; a child's does not hide its parents'."""
        providers = (vars(binder)["_bindings"].get(key) for binder in reversed(self._binders))
        return [item for b in providers if b for item in b.provider.get(self._injector)]

    def implementation(self, key: Any) -> type | None:
        """Give the class of what the container makes, as far as it can be told beforehand."""
        binding = self._binding(key)
        provider = binding.provider if binding else None
        if isinstance(provider, ClassProvider):
            return _class_of(provider)
        if isinstance(provider, InstanceProvider):
            return type(vars(provider)["_instance"])
        return None

    def is_scoped(self, key: Any) -> bool:
        """Whether it, or something it needs, is bound in the request scope."""
        return any(self._in_request(part) for part in self._reach(key, later=True))

    async def make(self, key: Any, *, asked_by: str) -> Any:
        """Have the container make something, in a request scope of its own where it needs one.

        Args:
            key: what to ask the container for.
            asked_by: for errors.

        Raises:
            HandlerError: it cannot be made; says which dependency is at fault, and the remedy.
        """
        self._check(key, asked_by)
        if not self.is_scoped(key):
            return self._get(key, asked_by)
        if self.request_scope is None:
            msg = (
                f"{asked_by}: {describe(key)} needs the request scope, but the injector has none. "
                "Call fastapi_injector.attach_injector(app, injector) before the start."
            )
            raise HandlerError(msg)
        async with self.request_scope():
            return self._get(key, asked_by)

    def _get(self, key: Any, asked_by: str) -> Any:
        try:
            made = self._injector.get(key)
        except Exception as exc:
            msg = f"{asked_by}: {describe(key)} cannot be made: {_reason(exc)}"
            raise HandlerError(msg) from exc
        if inspect.iscoroutine(made):
            made.close()
            msg = f"{asked_by}: {describe(key)} is a coroutine. {_SYNC_PROVIDER}"
            raise HandlerError(msg)
        return made

    def _check(self, key: Any, asked_by: str) -> None:
        for part in self._reach(key, later=False):
            if fault := self._fault(part):
                needed = f", which {part.needed_by} needs," if part.needed_by else ""
                msg = f"{asked_by}: {describe(part.key)}{needed} {fault}"
                raise HandlerError(msg)

    def _fault(self, part: Part) -> str | None:
        bind = f"Bind it in a module: binder.bind({describe(part.key)}, to=…)."
        if part.provider is None:
            return f"is bound by nothing. {bind}"
        if isinstance(part.provider, ClassProvider) and _is_abstract(_class_of(part.provider)):
            return f"is abstract and has no implementation. {bind}"
        if inspect.iscoroutinefunction(vars(part.provider).get("_callable")):
            return f"has an `async def` provider, which gives a coroutine. {_SYNC_PROVIDER}"
        if unresolved := _unresolved(part.provider):
            return unresolved
        if issubclass(part.scope, SingletonScope) and self._holds_request(part):
            return (
                "is a singleton, so it would keep what it got in the first request scope. "
                "Bind it without a scope, or in the request scope."
            )
        return None

    def _holds_request(self, part: Part) -> bool:
        return any(self._in_request(inner) for inner in self._reach(part.key, later=False))

    def _in_request(self, part: Part) -> bool:
        return self._scopes is not None and issubclass(part.scope, self._scopes.RequestScope)

    def _find_request_scope(self) -> RequestScopes | None:
        factory: Any = getattr(self._scopes, "RequestScopeFactory", None)
        if not any(binder.has_binding_for(factory) for binder in self._binders):
            return None
        create: RequestScopes = self._injector.get(factory).create_scope
        return create

    def _reach(self, key: Any, *, later: bool) -> Iterator[Part]:
        """Walk what making it makes; with `later`, also what a `ProviderOf` may make one day."""
        waiting, seen = [(key, "")], set[Any]()
        while waiting:
            key, needed_by = waiting.pop()
            if key in seen:
                continue
            seen.add(key)
            if later and get_origin(key) in _LATER:
                waiting.append((get_args(key)[0], needed_by))
            for part in self._parts(key, needed_by):
                yield part
                waiting.extend(_needs(part.provider))

    def _parts(self, key: Any, needed_by: str) -> Iterator[Part]:
        binding = self._binding(key)
        if binding is None:
            yield Part(key, needed_by, None, NoScope)
        elif not isinstance(binding.provider, MultiBinder):
            yield Part(key, needed_by, binding.provider, binding.scope)
        else:
            for item in vars(binding.provider)["_multi_bindings"]:
                # the provider of a dict's value is inside that of its item
                provider = vars(item.provider).get("_provider", item.provider)
                yield Part(key, needed_by, provider, item.scope)

    def _binding(self, key: Any) -> Any:
        try:
            return self._injector.binder.get_binding(key)[0]
        except Exception:  # noqa: BLE001 because injector raises many kinds for "not bound"
            return None


def is_bound(injector: Injector, key: Any) -> bool:
    """Whether a module of the container or of its parents bound it; `auto_bind` does not count."""
    return any(binder.has_explicit_binding_for(key) for binder in _with_parents(injector.binder))


def _with_parents(binder: Binder | None) -> Iterator[Binder]:
    while binder is not None:
        yield binder
        binder = binder.parent


def _class_of(provider: ClassProvider[Any]) -> type:
    made: type = vars(provider)["_cls"]
    return made


def _is_abstract(cls: type) -> bool:
    return inspect.isabstract(cls) or bool(getattr(cls, "__dict__", {}).get("_is_protocol"))


def _maker(provider: Any) -> tuple[Any, str]:
    """What is called to make it, and its name; None: nothing that can be looked into."""
    if isinstance(provider, ClassProvider):
        made = _class_of(provider)
        return made.__init__, made.__name__  # type: ignore[misc]  # of the class itself
    if isinstance(provider, CallableProvider):
        maker = vars(provider)["_callable"]
        return maker, describe(maker)
    return None, ""


def _needs(provider: Any) -> list[tuple[Any, str]]:
    maker, name = _maker(provider)
    try:
        return [(key, f"{name}({parameter})") for parameter, key in get_bindings(maker).items()]
    except Exception:  # noqa: BLE001 because making it tells better what is wrong with it
        return []


def _unresolved(provider: Any) -> str | None:
    maker, name = _maker(provider)
    try:
        get_bindings(maker)
    except Exception as exc:  # noqa: BLE001 because injector may hold the NameError inside its own
        error = next((arg for arg in exc.args if isinstance(arg, NameError)), exc)
    else:
        return None
    if not isinstance(error, NameError):
        return None
    word = re.compile(rf"\b{re.escape(str(error.name))}\b")
    hints: dict[str, Any] = getattr(maker, "__annotations__", {})
    parameter = next((p for p, hint in hints.items() if word.search(str(hint))), "?")
    return (
        f"cannot be made: the type of {name}({parameter}) cannot be resolved: {error}. Import it "
        "at the top of the module, not under TYPE_CHECKING."
    )


def _reason(exc: Exception) -> str:
    if isinstance(exc, CircularDependency):
        return f"{exc}. Break the circle with ProviderOf[…]."
    if isinstance(exc, CallError):
        cause = next((arg for arg in exc.args if isinstance(arg, Exception)), exc)
        return f"{cause}. Annotate what the container shall give as Inject[…], and bind it."
    if isinstance(exc, UnsatisfiedRequirement):
        return f"{exc}. Bind it in a module."
    return f"{type(exc).__name__}: {exc}"
