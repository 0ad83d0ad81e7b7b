"""The router that an app includes."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kvqueue_fastapi.dashboard.actions import ACTIONS
from kvqueue_fastapi.dashboard.assets import asset
from kvqueue_fastapi.dashboard.lists import dead_letters, messages
from kvqueue_fastapi.dashboard.live import live
from kvqueue_fastapi.dashboard.one_message import edit, message
from kvqueue_fastapi.dashboard.overview import overview
from kvqueue_fastapi.dashboard.processes import listeners, settings
from kvqueue_fastapi.dashboard.visit import House, Screen
from kvqueue_fastapi.depends import guards
from kvqueue_fastapi.errors import KvQueueError

_SCREENS: Final[dict[str, Screen]] = {
    "/": overview,
    "/messages": messages,
    "/messages/{message_id}": message,
    "/dead": dead_letters,
    "/listeners": listeners,
    "/settings": settings,
}
_READ: Final = ("GET", "HEAD")
_OPEN: Final = (
    "The dashboard shows payloads and throws messages away, so it is not open to everybody. Write "
    "dashboard_router(dependencies=[Depends(admin_only)]) with a dependency that raises for all "
    "but its keepers, or dashboard_router(allow_anonymous=True) where something before the app "
    "keeps the others out."
)


def dashboard_router(
    *,
    dependencies: Sequence[Any] = (),
    allow_anonymous: bool = False,
    read_only: bool = False,
    title: str = "Queue",
) -> APIRouter:
    """Make a router that shows the queue of the app that includes it.

    It works under any prefix, behind any proxy and in mounted apps, and shows what the `redact`
    of `KvQueueModule` lets through. All that it answers, its style sheet too, is behind the
    dependencies; none of it is in the OpenAPI schema. Each action is logged by
    `kvqueue_fastapi.audit`, with the user where a dependency has set `request.state.user`.

    Example:
        app.include_router(dashboard_router(dependencies=[Depends(admin_only)]), prefix="/queue")

    Args:
        dependencies: what must let a request pass, as for `APIRouter`.
        allow_anonymous: True: it may be without dependencies.
        read_only: True: there are no actions, neither buttons nor routes.
        title: what the dashboard is called, such as the name of the shop.

    Raises:
        KvQueueError: there are no dependencies, and `allow_anonymous` is False; or one is none.

    Idea: Oban Web, Sidekiq's web UI.
    """
    guarding = guards(dependencies or ())
    if not guarding and not allow_anonymous:
        raise KvQueueError(_OPEN)
    router = APIRouter(dependencies=guarding)
    house = House(title=title, read_only=read_only)

    def add(path: str, screen: Screen, *methods: str) -> None:
        router.add_api_route(
            path,
            _endpoint(house, path, screen),
            methods=list(methods),
            include_in_schema=False,
            response_model=None,
        )

    for path, screen in _SCREENS.items():
        add(path, screen, *_READ)
    # Whoever asks by HEAD wants to have an answer soon.
    add("/live", live, "GET")
    router.add_api_route(
        "/static/{name}",
        asset,
        methods=list(_READ),
        include_in_schema=False,
        response_model=None,
    )
    if not read_only:
        add("/messages/{message_id}/edit", edit, *_READ)
        for name, action in ACTIONS.items():
            add(f"/actions/{name}", action, "POST")
    return router


def _endpoint(house: House, path: str, screen: Screen) -> Callable[[Request], Awaitable[Response]]:
    root = "../" * (path.count("/") - 1) or "./"

    async def endpoint(request: Request) -> Response:
        return await house.answer(screen, request, root)

    return endpoint
