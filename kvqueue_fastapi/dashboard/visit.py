"""One request to the dashboard, and what every screen needs to answer it."""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.dashboard.looks import Look, looks_at
from kvqueue_fastapi.dashboard.outcome import Mood
from kvqueue_fastapi.dashboard.pages import render
from kvqueue_fastapi.dashboard.protection import HEADERS, keep_token, set_cookie, token_of
from kvqueue_fastapi.depends import runtime_of
from kvqueue_fastapi.errors import (
    KvQueueClosedError,
    KvQueueError,
    KvQueueNotStartedError,
    NotInstalledError,
    StoreError,
)
from kvqueue_fastapi.lifespan import Runtime

NEWS: Final = "kvqueue_dashboard_news"
MAX_NEWS_BYTES: Final = 3_000
"""Browsers keep no cookie of more than 4,096 bytes, and base64 makes four of three."""
_MOODS: Final = frozenset(get_args(Mood))
_LINK: Final = re.compile(r"(messages/-?\d+)?")
_UNAVAILABLE: Final = (
    KvQueueNotStartedError,
    KvQueueClosedError,
    NotInstalledError,
    StoreError,
)


@dataclass(frozen=True, slots=True)
class House:
    """What one `dashboard_router` was told."""

    title: str
    read_only: bool

    async def answer(self, screen: "Screen", request: Request, root: str) -> Response:
        """Have a screen answer, or say why it cannot."""
        visit = Visit(self, request, root, token_of(request))
        try:
            visit.runtime = runtime_of(request)
            visit.runtime.require_open()
            response = await screen(visit)
        except KvQueueError as error:
            response = await visit.trouble(error)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


class Visit:
    """One request.

    Attributes:
        house: what the router was told.
        request: as it came.
        root: the relative URL of the overview, so that no prefix has to be known.
        token: of this browser; see `protection`.
        runtime: the queue of the app; set before a screen is asked.
        done: how many messages an action has changed so far.
    """

    runtime: Runtime

    def __init__(self, house: House, request: Request, root: str, token: str) -> None:
        self.house = house
        self.request = request
        self.root = root
        self.token = token
        self.done = 0

    @property
    def admin(self) -> KvQueueAdmin:
        """The keeper's face of the queue."""
        return self.runtime.admin

    def query(self, name: str) -> str:
        """What the URL says; "" where it says nothing."""
        return self.request.query_params.get(name, "").strip()

    async def look(self) -> Look:
        """The queue as a whole, at most some seconds ago."""
        return await looks_at(self.admin).latest(self.admin)

    def changed(self) -> None:
        """Have the next page show what was changed."""
        looks_at(self.admin).forget()

    async def page(self, template: str, status: int = 200, **facts: Any) -> Response:
        """Answer with a page.

        Args:
            template: its file.
            status: of the response.
            facts: what the template is told beside what every page needs.
        """
        # Neither a page that renews itself nor a HEAD may take the news from its reader.
        is_read = self.request.method != "HEAD" and "hx-request" not in self.request.headers
        news = _news(self.request) if is_read else None
        every = {
            "house": self.house,
            "root": self.root,
            "token": self.token,
            "news": news,
            "here": self._here(),
        }
        # In a thread, because a large page takes longer than the app's other requests may wait.
        content = await asyncio.to_thread(render, template, {**every, **facts})
        response = HTMLResponse(content, status_code=status)
        keep_token(response, self.request, self.token)
        if is_read and NEWS in self.request.cookies:
            response.delete_cookie(NEWS, path="/", httponly=True, samesite="strict")
        return response

    def _here(self) -> str:
        """The URL of this page below the overview."""
        depth = 1 + self.root.count("../")
        path = "/".join(quote(part) for part in self.request.scope["path"].split("/")[-depth:])
        query = self.request.url.query
        return f"{path}?{query}" if query else path

    async def trouble(self, error: KvQueueError) -> Response:
        """Answer with a page that says what is wrong."""
        is_unavailable = isinstance(error, _UNAVAILABLE)
        return await self.page(
            "trouble.html",
            503 if is_unavailable else 400,
            error=error,
            done=self.done,
            is_store=isinstance(error, StoreError),
            is_unavailable=is_unavailable,
            # Only a queue that is open has a stream that tells when its store is back.
            is_live=isinstance(error, StoreError) and self.request.method == "GET",
        )

    def leave(self, place: str, text: str, *, link: str = "", mood: Mood = "good") -> Response:
        """Lead to another page, which tells the news.

        Args:
            place: its path below the overview, with its query.
            text: what has happened.
            link: the path of something that the news is about.
            mood: how to tell it.
        """
        response = RedirectResponse(self.root + place, status_code=303)
        news = f"{mood}\n{link}\n{text}".encode("utf-8", "backslashreplace")
        value = base64.urlsafe_b64encode(news[:MAX_NEWS_BYTES]).decode()
        set_cookie(response, self.request, NEWS, value)
        return response


Screen = Callable[[Visit], Awaitable[Response]]
"""Answers one request."""


def _news(request: Request) -> tuple[str, str, str] | None:
    try:
        news = base64.urlsafe_b64decode(request.cookies.get(NEWS, ""))
    except ValueError:
        return None
    # The last character may have been cut.
    match news.decode("utf-8", "ignore").split("\n", 2):
        case [mood, link, text] if _LINK.fullmatch(link) and mood in _MOODS:
            return text, link, mood
        case _:
            return None
