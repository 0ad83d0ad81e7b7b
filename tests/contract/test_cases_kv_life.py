"""Cases 87, 97, 99 and 100 of `Kv`: to open, to close, and what is left."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector

from kvqueue_fastapi import (
    InvalidOptionError,
    Kv,
    KvDep,
    KvQueueClosedError,
    KvQueueError,
    KvQueueModule,
    KvQueueNotStartedError,
    KvQueueSettings,
    on_queue_message,
)
from tests.contract.harness import PATIENCE_S, Seen, listening, running

KEY = ("a",)
USES: list[Callable[[Kv], Any]] = [
    lambda kv: kv.get(KEY),
    lambda kv: kv.get_many([KEY]),
    lambda kv: kv.set(KEY, 1),
    lambda kv: kv.delete(KEY),
    lambda kv: anext(kv.list(prefix=())),
    lambda kv: anext(kv.watch([KEY])),
    lambda kv: kv.atomic().commit(),
    lambda kv: kv.atomic().check(KEY, None).set(KEY, 1).commit(),
    lambda kv: kv.atomic().enqueue(1).commit(),
    lambda kv: kv.enqueue(1),
    lambda kv: kv.listen_queue(lambda: None),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "kv.db")


@pytest.fixture
async def kv(url: str) -> AsyncIterator[Kv]:
    async with Kv.open(url, settings=KvQueueSettings(shutdown_timeout_s=PATIENCE_S)) as kv:
        yield kv


def listen(kv: Kv, handler: Callable[..., Any]) -> asyncio.Task[None]:
    return asyncio.create_task(kv.listen_queue(handler))


async def left(url: str) -> list[tuple[Any, int]]:
    """The values that wait in a file, and how many attempts each has spent."""
    async with running(url, listen=False) as bench:
        return [(one.data, one.attempt) for one in await bench.admin.messages()]


def our_threads() -> set[threading.Thread]:
    ours = ("kvqueue", "_connection_worker")
    return {one for one in threading.enumerate() if any(name in one.name for name in ours)}


# --- closing ---


@pytest.mark.case(87)
async def test_values_whose_handlers_never_end_come_again_after_a_reopening(url: str) -> None:
    begun, seen = Seen(), Seen()

    async def never_end(value: str) -> None:
        begun.add(value)
        await asyncio.Event().wait()

    async with Kv.open(url, settings=KvQueueSettings(shutdown_timeout_s=0.05)) as kv:
        listener = listen(kv, never_end)
        for number in range(3):
            await kv.enqueue(f"msg{number}", backoff_schedule=[])
        await begun.reach(3)
    await listener

    async with Kv.open(url) as kv, listening(kv, seen.take):
        assert sorted(await seen.stay(3)) == ["msg0", "msg1", "msg2"]


@pytest.mark.case(97)
@pytest.mark.parametrize("pause_s", [0, 0.05])
async def test_idle_listeners_return_when_the_store_is_closed(url: str, pause_s: float) -> None:
    kv = await Kv.open(url, settings=KvQueueSettings(poll_interval_s=3_600))
    listeners = [listen(kv, lambda: None) for _ in range(3)]
    await asyncio.sleep(pause_s)
    began_at = time.monotonic()

    await kv.close()

    assert await asyncio.gather(*listeners) == [None] * 3
    assert time.monotonic() - began_at < 2


async def test_close_waits_for_running_handlers_which_can_use_the_store(kv: Kv, url: str) -> None:
    begun = Seen()

    async def handle(value: int) -> None:
        begun.add(value)
        await asyncio.sleep(0.1)
        await kv.set(KEY, value)

    listener = listen(kv, handle)
    await kv.enqueue(1)
    await begun.reach(1)
    await kv.close()
    await listener

    assert await left(url) == []
    async with Kv.open(url) as again:
        assert (await again.get(KEY)).value == 1


async def test_close_gives_back_what_is_not_done_within_the_grace(url: str) -> None:
    begun = Seen()

    async def handle(value: int) -> None:
        begun.add(value)
        await asyncio.Event().wait()

    kv = await Kv.open(url, settings=KvQueueSettings(shutdown_timeout_s=0.1))
    listener = listen(kv, handle)
    await kv.enqueue(1, backoff_schedule=[])
    await begun.reach(1)
    began_at = time.monotonic()
    await kv.close()
    await listener

    assert 0.1 <= time.monotonic() - began_at < 2
    assert await left(url) == [(1, 0)]


@pytest.mark.case(99)
async def test_second_close_waits_for_the_first_one_and_harms_nothing(kv: Kv, url: str) -> None:
    begun, ended = Seen(), Seen()

    async def handle(value: int) -> None:
        begun.add(value)
        await asyncio.sleep(0.2)
        ended.add(value)

    listener = listen(kv, handle)
    await kv.enqueue(1)
    await begun.reach(1)
    first = asyncio.create_task(kv.close())
    await asyncio.sleep(0.05)
    await kv.close()

    assert ended == [1]
    await asyncio.gather(first, listener)
    assert await left(url) == []


async def test_close_by_a_handler_does_not_wait_for_that_handler(kv: Kv) -> None:
    closed = Seen()

    async def handle() -> None:
        with suppress(KvQueueError):
            await kv.close()
        closed.add("closed")

    listener = listen(kv, handle)
    await kv.enqueue(1)

    async with asyncio.timeout(PATIENCE_S / 2):
        await closed.reach(1)
    listener.cancel()
    await asyncio.wait([listener])


async def test_close_that_is_cancelled_closes_all_the_same(kv: Kv, url: str) -> None:
    begun = Seen()

    async def handle(value: int) -> None:
        begun.add(value)
        await asyncio.sleep(0.2)

    listener = listen(kv, handle)
    await kv.enqueue(1)
    await begun.reach(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(kv.close(), 0.05)

    with pytest.raises(KvQueueClosedError):
        await kv.get(KEY)
    await listener
    assert await left(url) == []


@pytest.mark.case(99)
@pytest.mark.parametrize("use", USES, ids=range(len(USES)))
async def test_every_use_after_the_close_raises_one_error(kv: Kv, use: Callable[[Kv], Any]) -> None:
    await kv.close()
    await kv.close()

    with pytest.raises(KvQueueClosedError):
        await use(kv)


@pytest.mark.case(99)
async def test_store_is_closed_by_its_context_also_where_it_ends_with_an_error(url: str) -> None:
    kept = []

    async def use(opening: Any) -> None:
        async with opening as kv:
            kept.append(kv)
            await kv.set(KEY, 1)
            raise LookupError

    for opening in (Kv.open(url), await Kv.open(url)):
        with pytest.raises(LookupError):
            await use(opening)
    async with Kv.open(url) as kv:
        kept.append(kv)
        await kv.close()

    for kv in kept:
        with pytest.raises(KvQueueClosedError):
            await kv.get(KEY)


@pytest.mark.case(99)
async def test_store_that_was_used_for_everything_leaves_no_thread_and_no_task(url: str) -> None:
    tasks, threads = asyncio.all_tasks(), our_threads()
    for _ in range(5):
        async with Kv.open(url) as kv:
            listener, watch = listen(kv, lambda: None), kv.watch([KEY])
            await anext(watch)
            await kv.enqueue(1)
        assert [entries async for entries in watch] == []
        await listener

    assert our_threads() <= threads
    assert asyncio.all_tasks() <= tasks


@pytest.mark.case(100)
async def test_store_in_memory_is_private() -> None:
    async with Kv.open(":memory:") as one, Kv.open(":memory:") as other:
        await one.set(KEY, 1)

        assert ((await one.get(KEY)).value, (await other.get(KEY)).value) == (1, None)


@pytest.mark.case(100)
@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "Filename cannot be empty"),
        ("sqlite:///", "Filename cannot be empty"),
        (":foo", "Filename cannot start with ':' unless prefixed with './'"),
        ("mysql://host/db", "is neither a path"),
        (7, "7"),
        (b"kv.db", "kv.db"),
    ],
)
async def test_url_that_is_no_path_is_refused(url: Any, text: str) -> None:
    with pytest.raises(InvalidOptionError, match=text):
        await Kv.open(url)


@pytest.mark.case(100)
async def test_url_is_a_path_a_url_or_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kv.db"
    monkeypatch.setenv("KVQUEUE_URL", str(path))
    settings = KvQueueSettings(url=str(path))

    for number, opening in enumerate(
        [Kv.open(str(path)), Kv.open(f"sqlite:///{path}"), Kv.open(settings=settings), Kv.open()]
    ):
        async with opening as kv:
            assert (await kv.get(KEY)).value == (number or None)
            await kv.set(KEY, number + 1)


# --- in an app ---


def test_listener_in_an_app_returns_before_the_apps_own_shutdown(url: str) -> None:
    seen: list[Any] = []
    module = KvQueueModule(url)
    injector = Injector([module])

    async def handle(value: int) -> None:
        await asyncio.sleep(0.05)
        seen.append(value)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        listener = listen(injector.get(Kv), handle)
        yield
        seen.append(("returned", listener.done() and listener.result()))

    app = FastAPI(lifespan=lifespan)
    module.install(app, injector)

    @app.post("/{value}")
    async def post(value: int, kv: KvDep) -> bool:
        return (await kv.enqueue(value)).ok

    for value in (1, 2):
        with TestClient(app) as client:
            assert client.post(f"/{value}").json()
            while value not in seen:
                time.sleep(0.01)

    assert seen == [1, ("returned", None), 2, ("returned", None)]


async def test_handlers_and_listeners_of_an_app_have_one_grace_together(url: str) -> None:
    begun = Seen()

    async def never_end(value: int) -> None:
        begun.add(value)
        await asyncio.Event().wait()

    handler = on_queue_message("slow")(never_end)
    module = KvQueueModule(url, consumers=[handler], settings=KvQueueSettings(shutdown_timeout_s=2))
    injector = Injector([module])
    async with module.running(injector) as queue:
        listener = listen(injector.get(Kv), never_end)
        await queue.send_message("slow", 1)
        await injector.get(Kv).enqueue(2)
        await begun.reach(2)
        began_at = time.monotonic()

    assert time.monotonic() - began_at < 3.6
    assert listener.done()
    assert await left(url) == [(1, 0), (2, 0)]


async def test_store_of_an_app_is_closed_by_the_app_alone(url: str) -> None:
    module = KvQueueModule(url)
    kv = Injector([module]).get(Kv)
    with pytest.raises(KvQueueNotStartedError):
        await kv.get(KEY)

    async with module.running():
        with pytest.raises(KvQueueError, match="belongs to an app"):
            await kv.close()
        with pytest.raises(KvQueueError, match="belongs to an app"):
            await kv.__aenter__()
        await kv.set(KEY, 1)

    with pytest.raises(KvQueueClosedError):
        await kv.get(KEY)
