"""The stream that tells open pages that the queue has changed."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kvqueue_fastapi.dashboard.looks import LOOK_S
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.errors import KvQueueClosedError, KvQueueError, KvQueueNotStartedError

TICK_S: Final = 0.25
"""How long a stream may hold up a server that stops."""
LIFE_S: Final = 25.0
"""After this the browser asks again, and the dependencies judge it again."""
BLIND_LIFE_S: Final = 5.0
"""The same where the server does not tell that it stops."""
AGES_S: Final = 20.0
"""How often pages are renewed whose queue does not change, because ages do."""
_STACKS: Final = ("fastapi_function_astack", "fastapi_inner_astack")
"""Where FastAPI keeps what it ends after a response; kept elsewhere, it ends after `LIFE_S`."""


async def live(visit: Visit) -> Response:
    """Answer with a stream of server-sent events: `look` when a page should look again."""
    await _give_back(visit.request)
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_events(visit), headers=headers, media_type="text/event-stream")


async def _give_back(request: Request) -> None:
    """End the dependencies with `yield`: five open pages would keep a pool of five sessions."""
    for name in _STACKS:
        stack = request.scope.get(name)
        if isinstance(stack, AsyncExitStack):
            await stack.aclose()


async def _events(visit: Visit) -> AsyncGenerator[str]:
    seen = visit.request.headers.get("last-event-id") or visit.query("seen")
    begun_at = told_at = time.monotonic()
    life_s = BLIND_LIFE_S if _stopping() is None else LIFE_S
    yield ": watching\n\n"
    while time.monotonic() - begun_at < life_s:
        found = await _fingerprint(visit)
        if found is None:
            return
        if found != seen or time.monotonic() - told_at >= AGES_S:
            seen, told_at = found, time.monotonic()
            yield f"id: {found}\nevent: look\ndata:\n\n"
        if await _is_over(visit.request):
            return


async def _fingerprint(visit: Visit) -> str | None:
    """What the queue is like now; None: there is none any more."""
    try:
        return (await visit.look()).fingerprint
    except (KvQueueClosedError, KvQueueNotStartedError):
        return None
    except KvQueueError:
        return "trouble"


async def _is_over(request: Request) -> bool:
    """Wait until it is time to look again; True: the browser has gone, or the server stops."""
    until = time.monotonic() + LOOK_S
    while time.monotonic() < until:
        if _stopping() or await request.is_disconnected():
            return True
        await asyncio.sleep(TICK_S)
    return False


def _stopping() -> bool | None:
    """Whether the server stops; None: it does not tell."""
    # uvicorn waits for open responses before it ends the lifespan, so that this cannot tell. Its
    # own signal handler is a method of the server, which knows.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    stopping = getattr(server, "should_exit", None)
    return stopping if isinstance(stopping, bool) else None
