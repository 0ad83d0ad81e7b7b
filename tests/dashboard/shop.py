"""A dashboard over a test client, and a keeper who uses it as a browser without scripts does."""

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule, on_queue_message
from kvqueue_fastapi.dashboard import dashboard_router
from kvqueue_fastapi.testing import drain

ORIGIN = "http://testserver"


class FailedError(Exception):
    """What the handlers here fail with: the text that was sent to them."""


@on_queue_message("bad", backoff_schedule=[])
async def fail(data: Any) -> None:
    raise FailedError(data if isinstance(data, str) else "no such customer")


@on_queue_message("worse", backoff_schedule=[0, 0])
async def fail_again(data: Any) -> None:
    raise FailedError("Timeout")


@on_queue_message("strict", backoff_schedule=[])
async def fail_by_model(number: int) -> None:
    if number < 0:
        raise FailedError(f"{number} is negative")


class Keeper:
    """Reads pages and presses buttons.

    Attributes:
        client: with the app's lifespan running.
        prefix: where the dashboard is.
    """

    def __init__(self, client: TestClient, prefix: str) -> None:
        self.client = client
        self.prefix = prefix

    def open(self, place: str = "", status: int = 200, **headers: str) -> Response:
        answer = self.client.get(self.prefix + place, headers=headers, follow_redirects=False)
        assert answer.status_code == status, answer.text
        return answer

    def read(self, place: str = "", status: int = 200) -> str:
        """What a page says, without its tags."""
        return words(self.open(place, status))

    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]+)"', self.open().text)
        # a page without a form has no token to show
        return found[1] if found else self.client.cookies["kvqueue_dashboard"]

    def send(self, action: str, *, token: str | None = None, **fields: Any) -> Response:
        """Press a button: what the server answers to its form."""
        sent = {"token": self.token() if token is None else token, **fields}
        return self.client.post(
            f"{self.prefix}actions/{action}",
            data=sent,
            headers={"origin": ORIGIN},
            follow_redirects=False,
        )

    def act(self, action: str, **fields: Any) -> str:
        """Press a button: what the page says that comes then."""
        answer = self.send(action, **fields)
        if answer.status_code == 303:
            answer = self.client.get(str(answer.url.join(answer.headers["location"])))
        return words(answer)

    def confirm(self, action: str, **fields: Any) -> str:
        """Press a button and answer yes to its question."""
        asked = self.send(action, **fields).text
        return self.act(action, sure="yes", **bounds(asked), **fields)

    def given(self, message_type: str, *payloads: Any, **options: Any) -> list[int]:
        queue = self._of(KvQueue)
        return [
            self._call(partial(queue.send_message, message_type, data, **options))
            for data in payloads or (None,)
        ]

    def dead(self, *payloads: Any, kind: str = "bad", **options: Any) -> list[int]:
        """Make dead letters."""
        ids = self.given(kind, *payloads, **options)
        drain(self.client)
        return ids

    def ask(self, verb: str, *arguments: Any, **named: Any) -> Any:
        """Ask the admin itself."""
        return self._call(partial(getattr(self._of(KvQueueAdmin), verb), *arguments, **named))

    def ids(self, place: str) -> list[int]:
        """The messages that a list shows, in its order."""
        return [int(one) for one in re.findall(r'<tr id="m(-?\d+)">', self.open(place).text)]

    def _of(self, interface: type[Any]) -> Any:
        return self.client.app.state.injector.get(interface)  # type: ignore[attr-defined]

    def _call(self, function: Any) -> Any:
        assert self.client.portal is not None
        return self.client.portal.call(function)


def bounds(page: str) -> dict[str, str]:
    """What the form of a page says of those that it was asked for."""
    return dict(re.findall(r'name="(died_by_ms|count)" value="([^"]*)"', page))


def words(answer: Response) -> str:
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", answer.text, flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def app_with(module: KvQueueModule, prefix: str = "/queue", **options: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(dashboard_router(**{"allow_anonymous": True, **options}), prefix=prefix)
    module.install(app, Injector([module]))
    return app


@contextmanager
def keeping(
    url: str = ":memory:", consumers: Sequence[Any] = (fail, fail_again, fail_by_model), **more: Any
) -> Iterator[Keeper]:
    """Open a dashboard.

    Args:
        url: of the store.
        consumers: of the module; they handle nothing before `drain`.
        more: `module` with options of the module, else options of the router.
    """
    options = more.pop("module", {})
    module = KvQueueModule(url, consumers=consumers, listen=False, **options)
    with TestClient(app_with(module, **more)) as client:
        yield Keeper(client, "/queue/")
