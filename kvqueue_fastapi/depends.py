"""What routes ask for: `KvQueueDep`, `KvDep`, `Injected`."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Annotated, Any

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


def guards(dependencies: Sequence[Any]) -> list[params.Depends]:
    """What must let a request pass, as routers of FastAPI take it.

    Args:
        dependencies: `Depends(…)`, or what would be in its brackets.

    Raises:
        InvalidOptionError: one is neither.
    """
    for one in dependencies:
        if not (isinstance(one, params.Depends) or callable(one)):
            msg = (
                f"dependencies has {shown(one)}, allowed are functions. Write "
                "dependencies=[Depends(admin_only)]."
            )
            raise InvalidOptionError(msg)
    return [one if isinstance(one, params.Depends) else Depends(one) for one in dependencies]
