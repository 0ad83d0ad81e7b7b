"""The stream that has open pages renewed: what it says, when it ends, what it costs."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import httpx2
import pytest
from fastapi import Depends
from injector import Injector

from kvqueue_fastapi import KvQueue, KvQueueAdmin, KvQueueModule
from kvqueue_fastapi.dashboard import live, looks
from kvqueue_fastapi.dashboard.looks import Looks, looks_at
from kvqueue_fastapi.errors import StoreBusyError
from kvqueue_fastapi.keeper import TypeCounts
from tests.dashboard.shop import app_with
from tests.web.serving import House, Server

HERE = Path(__file__).parent
PROMPT_S = 2


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[KvQueue, KvQueueAdmin]]:
    module = KvQueueModule(":memory:", listen=False)
    injector = Injector([module])
    async with module.running(injector) as queue:
        yield queue, injector.get(KvQueueAdmin)


class CountingAdmin(KvQueueAdmin):
    """Counts how often it is asked to read the whole table."""

    reads = 0

    async def counts(self) -> Any:
        self.reads += 1
        return await super().counts()


# --- the shared look ---


async def test_many_viewers_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as (_, real):
        admin = CountingAdmin(handle=real._handle, sender=real._sender)
        shared = Looks()
        await asyncio.gather(*(shared.latest(admin) for _ in range(50)))
        await shared.latest(admin)
        assert admin.reads == 1

        monkeypatch.setattr(looks, "LOOK_S", 0)
        await shared.latest(admin)
        assert admin.reads == 2

        shared.forget()
        await shared.latest(admin)
        assert admin.reads == 3


async def test_look_that_one_viewer_gives_up_is_not_lost_to_the_others() -> None:
    async with opened() as (_, admin):
        shared = Looks()
        first = asyncio.create_task(shared.latest(admin))
        second = asyncio.create_task(shared.latest(admin))
        await asyncio.sleep(0)
        first.cancel()

        assert (await second).counts == ()


async def test_fingerprint_changes_with_the_queue_and_not_with_time() -> None:
    async with opened() as (queue, admin):
        shared = Looks()
        await queue.send_message("a", 1)
        first = (await shared.latest(admin)).fingerprint
        shared.forget()
        second = (await shared.latest(admin)).fingerprint
        await queue.send_message("a", 2)
        shared.forget()
        third = (await shared.latest(admin)).fingerprint

    assert first == second != third


class SilentAdmin(KvQueueAdmin):
    """Of a store that has stopped to answer."""

    async def counts(self) -> Any:
        await asyncio.Event().wait()

    async def listeners(self) -> Any:
        await asyncio.Event().wait()


class SlowAdmin(KvQueueAdmin):
    """Of a store that takes its time to count."""

    asked = 0
    is_enough: asyncio.Event

    async def counts(self) -> Any:
        await self.is_enough.wait()
        return await super().counts()

    async def listeners(self) -> Any:
        self.asked += 1
        if self.asked == 3:
            self.is_enough.set()
        return await super().listeners()


async def test_store_that_does_not_answer_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "PATIENCE_S", 0.02)
    async with opened() as (_, real):
        admin = SilentAdmin(handle=real._handle, sender=real._sender)
        with pytest.raises(StoreBusyError, match=r"has not answered for 0\.04 s"):
            async with asyncio.timeout(10):
                await Looks().latest(admin)


async def test_store_that_counts_for_long_but_answers_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looks, "PATIENCE_S", 0.2)
    async with opened() as (_, real):
        admin = SlowAdmin(handle=real._handle, sender=real._sender)
        admin.is_enough = asyncio.Event()
        async with asyncio.timeout(10):
            assert (await Looks().latest(admin)).counts == ()


class Name(str):
    """Tells in which thread somebody writes it out."""

    __slots__ = ()

    threads: ClassVar[set[int]] = set()

    def __repr__(self) -> str:
        self.threads.add(threading.get_ident())
        return super().__repr__()


class NamedAdmin(KvQueueAdmin):
    async def counts(self) -> Any:
        name = Name("a")
        return [TypeCounts(name, 1, 0, 0, 0, 0, 0, 0, 1.0, paused=False, handled=True)]


async def test_look_is_reckoned_beside_the_event_loop() -> None:
    async with opened() as (_, real):
        admin = NamedAdmin(handle=real._handle, sender=real._sender)
        await Looks().latest(admin)

    assert Name.threads
    assert threading.get_ident() not in Name.threads


def test_looks_are_the_same_for_all_dashboards_of_a_queue() -> None:
    admin = Injector([KvQueueModule(":memory:")]).get(KvQueueAdmin)

    assert looks_at(admin) is looks_at(admin)


# --- the stream ---


@asynccontextmanager
async def served(house: House) -> AsyncIterator[tuple[Server, httpx2.AsyncClient]]:
    server = house.uvicorn(source=HERE)
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{await server.port()}") as client:
        yield server, client


async def line(lines: AsyncIterator[str], begin: str) -> str:
    async with asyncio.timeout(10):
        async for one in lines:
            if one.startswith(begin):
                return one
    raise AssertionError("the stream has ended")


async def test_stream_tells_that_the_queue_has_changed(house: House) -> None:
    async with served(house) as (_, client), client.stream("GET", "/queue/live") as stream:
        lines = stream.aiter_lines()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        first = await line(lines, "id:")

        await client.post("/send", json={"type": "nobody's"})

        assert await line(lines, "id:") != first
        assert await line(lines, "event:") == "event: look"


async def test_stream_says_nothing_to_a_page_that_has_seen_it(house: House) -> None:
    async with served(house) as (_, client):
        async with client.stream("GET", "/queue/live") as stream:
            seen = (await line(stream.aiter_lines(), "id:")).removeprefix("id: ")
        headers = {"last-event-id": seen}
        async with client.stream("GET", "/queue/live", headers=headers) as stream:
            lines = stream.aiter_lines()
            assert await line(lines, ":") == ": watching"
            await client.post("/send", json={"type": "nobody's"})
            assert await line(lines, "id:") != f"id: {seen}"


async def test_server_that_stops_is_not_held_up_by_open_pages(house: House) -> None:
    async with served(house) as (server, client), contextlib.AsyncExitStack() as streams:
        for _ in range(3):
            stream = await streams.enter_async_context(client.stream("GET", "/queue/live"))
            await line(stream.aiter_lines(), "id:")

        signalled_at = server.signal(signal.SIGTERM)
        took_s = await server.exited() - signalled_at

        assert took_s < PROMPT_S
        assert "Application shutdown complete" in server.log
        assert "Traceback" not in server.log


async def test_stream_ends_by_itself_where_the_server_does_not_tell_that_it_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "BLIND_LIFE_S", 0.1)
    monkeypatch.setattr(live, "LOOK_S", 0.05)
    module = KvQueueModule(":memory:", listen=False)
    app = app_with(module)
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        async with asyncio.timeout(10):
            answer = await client.get("/queue/live")

    assert "event: look" in answer.text


async def test_stream_does_not_keep_what_its_dependencies_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "BLIND_LIFE_S", 0)
    steps: list[str] = []
    events = live._events

    async def noting(visit: Any) -> AsyncIterator[str]:
        steps.append("stream")
        async for event in events(visit):
            yield event

    async def session() -> AsyncIterator[None]:
        yield
        steps.append("given back")

    async def keeper_only(_: Annotated[None, Depends(session)]) -> AsyncIterator[None]:
        yield
        steps.append("let go")

    monkeypatch.setattr(live, "_events", noting)
    module = KvQueueModule(":memory:", listen=False)
    app = app_with(module, dependencies=[Depends(keeper_only)])
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        answer = await client.get("/queue/live")

    assert answer.status_code == 200
    assert steps == ["let go", "given back", "stream"]


async def test_stream_ends_when_its_viewer_goes() -> None:
    app = app_with(KvQueueModule(":memory:", listen=False))
    gone = asyncio.Event()
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            gone.set()

    scope = {
        "type": "http",
        # from 2.4 on Starlette itself does not look whether the viewer is there
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/queue/live",
        "query_string": b"",
        "headers": [],
    }
    async with app.router.lifespan_context(app), asyncio.timeout(PROMPT_S):
        await app(scope, receive, send)

    assert sent[0] == "http.response.start"
