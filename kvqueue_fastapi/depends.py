"""What routes ask for: `KvQueueDep`, `KvDep`, `Injected`."""

from collections.abc import Awaitable, Callable, Iterable
from functools import cache
from typing import Annotated, Any, cast

from fastapi import Depends, params
from starlette.requests import HTTPConnection

from kvqueue_fastapi.errors import InvalidOptionError, NotInstalledError, shown
from kvqueue_fastapi.kv import Kv
from kvqueue_fastapi.lifespan import STATE_KEY, Runtime
from kvqueue_fastapi.queue import KvQueue


async def get_kv_queue(connection: HTTPConnection) -> KvQueue:
    """Give a route the queue of its app.

    In a mounted sub-app without a queue of its own it is that of the app that it is mounted in.
    Replace it in tests with `app.dependency_overrides[get_kv_queue]`.

    Raises:
        KvQueueNotStartedError: the app's lifespan has not run.
        KvQueueClosedError: it has ended.
        NotInstalledError: no queue was installed.
    """
    runtime = runtime_of(connection)
    runtime.require_open()
    return runtime.queue


async def get_kv(connection: HTTPConnection) -> Kv:
    """Give a route the key-value store of its app; else as `get_kv_queue`."""
    runtime = runtime_of(connection)
    runtime.require_open()
    return runtime.kv


KvQueueDep = Annotated[KvQueue, Depends(get_kv_queue)]
"""A route's parameter: `queue: KvQueueDep`."""

KvDep = Annotated[Kv, Depends(get_kv)]
"""A route's parameter: `kv: KvDep`."""


def Injected(interface: Any) -> Any:  # noqa: N802 because it stands where Depends does
    """Have the container give a route something.

    The same interface always gives the same dependency, so that it can be replaced in tests:
    `app.dependency_overrides[Injected(Shop).dependency]`; for `KvQueue` that is `get_kv_queue`,
    for `Kv` it is `get_kv`.

    Example:
        async def route(shop: Annotated[Shop, Injected(Shop)]) -> None: ...

    Args:
        interface: what the container is asked for, at each request.
    """
    return Depends(_resolver(interface))


@cache
def _resolver(interface: Any) -> Callable[[HTTPConnection], Awaitable[Any]]:
    if interface is KvQueue:
        return get_kv_queue
    if interface is Kv:
        return get_kv

    async def resolve(connection: HTTPConnection) -> Any:
        return runtime_of(connection).injector.get(interface)

    return resolve


def runtime_of(connection: HTTPConnection) -> Runtime:
    """Give what a connection's app runs, to the routes of this package.

    Raises:
        NotInstalledError: no queue was installed.
    """
    own = getattr(connection.app.state, STATE_KEY, None)
    # The connection's state comes from the lifespan, and reaches mounted apps and websockets.
    runtime = own or connection.scope.get("state", {}).get(STATE_KEY)
    if isinstance(runtime, Runtime):
        return runtime
    msg = (
        "This app has no queue, or is mounted in one whose lifespan has not run. Call "
        "KvQueueModule(…).install(app) on the outermost app; in tests use "
        "`with TestClient(app)`."
    )
    raise NotInstalledError(msg)


def guards(dependencies: Iterable[Any]) -> list[params.Depends]:
    """What must let a request pass, as routers of FastAPI take it.

    Args:
        dependencies: `Depends(…)`, or functions and objects that would be in its brackets.

    Raises:
        InvalidOptionError: one is none of these. A class is not, because FastAPI would make
            objects of it and ask nobody.
    """
    try:
        given = list(dependencies)
    except TypeError:
        raise _no_guard(dependencies) from None
    return [_guard(one) for one in given]


def _guard(given: Any) -> params.Depends:
    if isinstance(given, params.Depends):
        if given.dependency is not None:
            return given
    elif callable(given) and given is not Depends and not isinstance(given, type):
        return cast(params.Depends, Depends(given))
    raise _no_guard(given)


def _no_guard(given: object) -> InvalidOptionError:
    msg = (
        f"dependencies has {shown(given)}, allowed is a list of functions. Write "
        "dependencies=[Depends(admin_only)]."
    )
    return InvalidOptionError(msg)
