import asyncio
import logging
from collections.abc import Iterator

import pytest

from kvqueue_fastapi import on_queue_message
from kvqueue_fastapi.telemetry.logs import MessageLogFilter, MessageLogMiddleware
from tests.telemetry.shop import running

log = logging.getLogger("tests.telemetry.shop.deep")


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(
            logging.Formatter("%(message_id)s %(message_type)s %(attempt)s: %(message)s")
        )

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record).splitlines()[0])


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    handler.addFilter(MessageLogFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler.lines
    root.removeHandler(handler)
    root.setLevel(level)


async def test_lines_of_a_handler_and_of_what_it_calls_name_the_message(
    url: str, lines: list[str]
) -> None:
    async def deeper() -> None:
        log.info("deeper")

    @on_queue_message("async")
    async def handle(_: int) -> None:
        log.info("begun")
        await asyncio.create_task(deeper())

    async with running(url, MessageLogMiddleware(), handlers=[handle]) as queue:
        await queue.send_message("async", 1)
        await queue.run_until_idle()
        log.info("outside")

    assert lines == [
        "1 async 1: begun",
        "1 async 1: deeper",
        "None None None: outside",
    ]


async def test_lines_of_a_def_handler_in_its_thread_name_the_message(
    url: str, lines: list[str]
) -> None:
    @on_queue_message("def")
    def handle(_: int) -> None:
        log.info("in a thread")

    async with running(url, MessageLogMiddleware(), handlers=[handle]) as queue:
        await queue.send_message("def", 1)
        await queue.run_until_idle()

    assert lines == ["1 def 1: in a thread"]


async def test_handlers_side_by_side_each_name_their_own_message(
    url: str, lines: list[str]
) -> None:
    both, done = asyncio.Barrier(2), asyncio.Barrier(3)

    @on_queue_message("side by side")
    async def handle(number: int) -> None:
        await both.wait()
        log.info("number %d", number)
        await done.wait()

    logged = MessageLogMiddleware()
    async with running(url, logged, handlers=[handle], listen=True) as queue:
        await queue.send_messages([("side by side", 1), ("side by side", 2)])
        await done.wait()

    assert sorted(line for line in lines if "number" in line) == [
        "1 side by side 1: number 1",
        "2 side by side 1: number 2",
    ]


async def test_our_own_line_of_a_failure_names_the_message_by_itself(
    url: str, lines: list[str]
) -> None:
    async with running(url) as queue:
        await queue.send_message("order.wrong", 1)
        await queue.run_until_idle()

    assert [line.partition(" was rejected")[0] for line in lines] == [
        "1 order.wrong 1: order.wrong 1"
    ]


async def test_attempts_are_counted_in_the_lines(url: str, lines: list[str]) -> None:
    @on_queue_message("again")
    async def handle(_: int) -> None:
        log.info("tried")
        raise ValueError

    async with running(url, MessageLogMiddleware(), handlers=[handle]) as queue:
        await queue.send_message("again", 1)
        await queue.run_until_idle()

    assert [line for line in lines if "tried" in line] == ["1 again 1: tried", "1 again 2: tried"]
