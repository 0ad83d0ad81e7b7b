"""Commits whose answer never comes: what became of them is found out, or said not to be known."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from kvqueue_fastapi import KvU64, Message, StoreError
from tests.contract.harness import Bench, Seen, running, until
from tests.faults.postgres.held_commits import HeldCommits, held_commits
from tests.faults.postgres.load import SENT, UNKNOWN
from tests.faults.postgres.stage import EFFECTS, Stage
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy

LEASE_S = 9
"""So that an answer is waited for 1.5 s, and all is given up after 3 s."""
PORTS = "SELECT client_port FROM pg_stat_activity WHERE client_port > 0"
MESSAGES = "SELECT count(*) FROM kvqueue.kvqueue_messages"

Act = Callable[[Bench], Awaitable[Any]]


@asynccontextmanager
async def through(proxy: Proxy, url: str, **options: Any) -> AsyncIterator[Bench]:
    async with running(proxy.url_for(url), lease_s=LEASE_S, **options) as bench:
        yield bench


async def send(bench: Bench) -> Any:
    return await bench.queue.send_message("n", "one")


async def send_in_order(bench: Bench) -> Any:
    return await bench.queue.send_message("n", "one", ordering_key="k")


async def add(bench: Bench) -> Any:
    return (await bench.kv.atomic().sum(SENT, KvU64(1)).commit()).ok


@pytest.mark.parametrize("act", [send, send_in_order, add])
async def test_commit_whose_answer_is_swallowed_is_done_once_and_its_caller_told(
    stage: Stage, start_proxy: Callable[[PostgresServer], Proxy], act: Act
) -> None:
    proxy = start_proxy(stage.server)
    async with (
        through(proxy, stage.server.url, listen=False) as bench,
        held_commits(stage.server.url) as commits,
    ):
        acting = await held(commits, bench, act)
        proxy.swallow(asks=False)
        await commits.let_go()
        proxy.cut()
        proxy.resume()

        assert await acting

    assert await stage.query(MESSAGES) == (act is not add)
    assert await stage.counter(SENT) == (act is add)


async def test_send_that_arrives_late_is_not_done_behind_its_second_try(
    stage: Stage, start_proxy: Callable[[PostgresServer], Proxy]
) -> None:
    proxy, seen = start_proxy(stage.server), Seen()
    async with (
        running(stage.server.url, callbacks={"n": seen.take}),
        through(proxy, stage.server.url, listen=False) as bench,
    ):
        await bench.queue.send_message("n", "the first of its type")
        await seen.reach(1)
        ports = [row[0] for row in await stage.ask(PORTS)]
        for port in ports:
            proxy.swallow(port=port, answers=False)  # where it is one of the proxy's
        sending = asyncio.create_task(bench.queue.send_message("n", "late"))
        await proxy.swallowed(b"late")
        dropped = proxy.drop()
        assert await sending
        await seen.reach(2)
        await until(stage.is_empty)

        proxy.resume()
        await until(lambda: has_closed(stage, dropped))
        await until(stage.is_empty)

        assert len(seen) == 2


@pytest.mark.parametrize("atomic", [False, True])
async def test_message_whose_settling_is_not_answered_is_handled_once(
    stage: Stage,
    start_proxy: Callable[[PostgresServer], Proxy],
    caplog: pytest.LogCaptureFixture,
    *,
    atomic: bool,
) -> None:
    proxy, seen, gate = start_proxy(stage.server), Seen(), asyncio.Event()

    async def handle(message: Message) -> None:
        seen.add(message.id)
        await gate.wait()
        if atomic:
            await message.atomic().sum(EFFECTS, KvU64(1)).commit()
            seen.add("committed")

    async with (
        through(proxy, stage.server.url, callbacks={"n": handle}) as bench,
        held_commits(stage.server.url) as commits,
    ):
        await bench.queue.send_message("n", 1)
        await seen.reach(1)
        await commits.hold()
        gate.set()
        await commits.one()
        proxy.swallow(asks=False)
        await commits.let_go()
        proxy.cut()
        proxy.resume()

        await seen.stay(1 + atomic)

    assert await stage.query(MESSAGES) == 0
    assert await stage.counter(EFFECTS) == atomic
    assert "too late" not in caplog.text


async def test_number_that_a_crashed_server_gave_again_proves_nothing(
    start_stage: Callable[..., Stage], start_proxy: Callable[[PostgresServer], Proxy]
) -> None:
    # Nothing but commits writes down what was begun.
    stage = start_stage(wal_writer_delay="10s")
    proxy = start_proxy(stage.server)
    async with through(proxy, stage.server.url, listen=False) as bench:
        async with held_commits(stage.server.url) as commits:
            await commits.hold()
            acting = asyncio.create_task(add(bench))
            number = await commits.one()
            proxy.swallow(answers=False)
            await asyncio.to_thread(stage.server.restart, "immediate")
        await commit_until(stage.server.url, number)
        proxy.resume()

        with pytest.raises(StoreError, match=UNKNOWN):
            await acting

    assert await stage.counter(SENT) == 0


async def test_commit_that_a_crash_followed_is_not_known_of_and_not_done_again(
    stage: Stage, start_proxy: Callable[[PostgresServer], Proxy]
) -> None:
    proxy = start_proxy(stage.server)
    async with through(proxy, stage.server.url, listen=False) as bench:
        async with held_commits(stage.server.url) as commits:
            first = await held(commits, bench, add)
            # What comes while one commit runs is one transaction.
            acting = asyncio.gather(*(add(bench) for _ in range(5)), return_exceptions=True)
            await asyncio.sleep(0)  # each hands its write in
            await commits.let_one_go()
            await first
            await commits.one()
            proxy.swallow(asks=False)
            await commits.let_go()
            await stage.until_asked("SELECT count(*) = 1 FROM kvqueue.kvqueue_kv WHERE version > 1")
            await asyncio.to_thread(stage.server.restart, "immediate")
        proxy.cut()
        proxy.resume()

        answers = await acting

    assert all(UNKNOWN in str(answer) for answer in answers), answers
    assert await stage.counter(SENT) == 1 + len(answers)


async def held(commits: HeldCommits, bench: Bench, act: Act) -> asyncio.Task[Any]:
    await commits.hold()
    acting = asyncio.create_task(act(bench))  # type: ignore[arg-type]
    await commits.one()
    return acting


async def commit_until(url: str, number: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE others (number int)")
        while (
            await connection.fetchval("INSERT INTO others VALUES (1) RETURNING xmin::text::int")
            < number
        ):
            pass
    finally:
        await connection.close()


async def has_closed(stage: Stage, ports: list[int]) -> bool:
    return not await stage.ask(f"{PORTS} AND client_port = ANY ($1)", ports)
