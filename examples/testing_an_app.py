"""How an app that sends and handles messages is tested: a pytest file as a user has it.

    python examples/testing_an_app.py       # or: pytest examples/testing_an_app.py

Three ways, from the smallest to the largest: call the handler, record what a route sends, run
both with `drain`. It needs `pip install pytest httpx2`.
"""

# ruff: noqa: S101  assertions are what tests are made of
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Binder, Inject, Injector, Module, singleton
from pydantic import BaseModel

from kvqueue_fastapi import (
    KvQueueAdmin,
    KvQueueDep,
    KvQueueModule,
    get_kv_queue,
    on_queue_message,
)
from kvqueue_fastapi.testing import RecordingKvQueue, drain

# --- the app, which lives in a module of its own -------------------------------------------


class SignUp(BaseModel):
    email: str


class Mailer:
    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, to: str) -> None:
        self.sent.append(to)


class Welcome:
    def __init__(self, mailer: Inject[Mailer]) -> None:
        self.mailer = mailer

    @on_queue_message("user.signed_up", backoff_schedule=[])
    async def welcome(self, user: SignUp) -> None:
        if "@" not in user.email:
            msg = f"{user.email} is no address"
            raise ValueError(msg)
        await self.mailer.send(user.email)


class AppModule(Module):
    def configure(self, binder: Binder) -> None:
        binder.bind(Mailer, scope=singleton)


def make_app(injector: Injector, queue_module: KvQueueModule) -> FastAPI:
    app = FastAPI()
    queue_module.install(app, injector)

    @app.post("/users", status_code=202)
    async def sign_up(user: SignUp, queue: KvQueueDep) -> None:
        await queue.send_message("user.signed_up", user, priority=5)

    return app


# --- its tests -----------------------------------------------------------------------------


class Rig:
    """An app on a database of its own, whose messages wait until `drain`."""

    def __init__(self, url: str) -> None:
        queue_module = KvQueueModule(url, consumers=[Welcome], listen=False)
        self.injector = Injector([queue_module, AppModule()])
        self.client = TestClient(make_app(self.injector, queue_module))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(str(tmp_path / "queue.db"))
    # `with`, because the queue opens and closes with the app's lifespan.
    with rig.client:
        yield rig


def test_handler_mails_the_user() -> None:
    mailer = Mailer()

    # A decorated method is still a plain method.
    asyncio.run(Welcome(mailer).welcome(SignUp(email="ann@example.org")))

    assert mailer.sent == ["ann@example.org"]


def test_route_sends_a_message(rig: Rig) -> None:
    recorded = RecordingKvQueue()
    app = rig.client.app
    assert isinstance(app, FastAPI)
    app.dependency_overrides[get_kv_queue] = lambda: recorded

    rig.client.post("/users", json={"email": "ann@example.org"})

    assert recorded.sent == [
        ("user.signed_up", SignUp(email="ann@example.org"), {"priority": 5}),
    ]


def test_sign_up_ends_in_a_mail(rig: Rig) -> None:
    rig.client.post("/users", json={"email": "ann@example.org"})
    before = list(rig.injector.get(Mailer).sent)

    deliveries = drain(rig.client)

    assert before == []
    assert deliveries == 1
    assert rig.injector.get(Mailer).sent == ["ann@example.org"]


def test_wrong_address_is_a_dead_letter(rig: Rig) -> None:
    rig.client.post("/users", json={"email": "nobody"})

    drain(rig.client)

    assert rig.client.portal is not None
    (letter,) = rig.client.portal.call(rig.injector.get(KvQueueAdmin).dead_letters)
    assert letter.reason == "ValueError: nobody is no address"


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", "-v", __file__]))  # noqa: S603 because it is this file
