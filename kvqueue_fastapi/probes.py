"""The route that load balancers and orchestrators ask whether a process is well."""

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection

from kvqueue_fastapi.depends import get_kv_queue, guards
from kvqueue_fastapi.errors import KvQueueClosedError, KvQueueNotStartedError
from kvqueue_fastapi.health import checked_max_age_s
from kvqueue_fastapi.keeper import Health

_WELL: Final = 200
_UNWELL: Final = 503


def health_router(
    *,
    max_age_s: float | None = None,
    path: str = "/health",
    dependencies: Sequence[Any] = (),
) -> APIRouter:
    """Make a route that answers 200 while the queue is well, and 503 with the problems else.

    Example:
        app.include_router(health_router(max_age_s=300))

    It answers with `KvQueue.health` as JSON: `{"ok": true, "store": true, "listening": true,
    "oldest_age_s": 0.2, "problems": []}`. It names neither paths nor hosts nor payloads, and costs
    two short reads.

    Args:
        max_age_s: for how many seconds a message may be due before that is a problem; None: for
            ever. Leave it out where an orchestrator restarts what is not well: that would not
            make a backlog shorter.
        path: of the route, below the prefix that the router is included with.
        dependencies: of FastAPI, such as those that let nobody else in.

    Raises:
        InvalidOptionError: `max_age_s` is no number of seconds, or a dependency none.
    """
    limit_s = checked_max_age_s(max_age_s)
    router = APIRouter(dependencies=guards(dependencies))

    async def answer(connection: HTTPConnection) -> JSONResponse:
        try:
            health = await (await get_kv_queue(connection)).health(max_age_s=limit_s)
        except KvQueueNotStartedError:
            health = _unwell("the queue has not started")
        except KvQueueClosedError:
            health = _unwell("the queue has stopped")
        return JSONResponse(
            {name: getattr(health, name) for name in Health.__dataclass_fields__},
            _WELL if health.ok else _UNWELL,
            headers={"cache-control": "no-store"},
        )

    router.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)
    return router


def _unwell(problem: str) -> Health:
    return Health(ok=False, store=False, listening=None, oldest_age_s=None, problems=(problem,))
