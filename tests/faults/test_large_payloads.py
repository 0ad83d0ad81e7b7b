"""Payloads of 64 KiB, and batches of 10,000 messages: many of them at once."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueue, KvQueueSettings, PayloadTooLargeError
from kvqueue_fastapi.store import open_store
from tests.contract.harness import running
from tests.faults.filling import filled
from tests.faults.gauges import needs_proc, open_files
from tests.faults.measured import measured
from tests.store.given import mail, send

LARGEST = 65_536


def payload(number: int) -> str:
    """A text of its own that is, with its two quotes, as large as a payload may be."""
    return f"{number:08}é" * (LARGEST // 10) + "xxxx"


async def test_largest_payloads_that_many_send_at_once_arrive_whole(tmp_path: Path) -> None:
    sent = {n: sha256(payload(n).encode()).hexdigest() for n in range(300)}
    came: dict[int, str] = {}
    all_came = asyncio.Event()

    async def take(text: str) -> None:
        came[int(text[:8])] = sha256(text.encode()).hexdigest()
        if len(came) == len(sent):
            all_came.set()

    async with running(tmp_path, callbacks={"large": take}) as bench:
        ids = await asyncio.gather(*(bench.queue.send_message("large", payload(n)) for n in sent))
        await asyncio.wait_for(all_came.wait(), 30)

    assert len(set(ids)) == len(sent)
    assert came == sent


async def test_one_byte_over_the_limit_among_many_at_once_fails_alone(tmp_path: Path) -> None:
    async with running(tmp_path, listen=False) as bench:
        answers = await asyncio.gather(
            *(bench.queue.send_message("large", "x" * (LARGEST - 2 + n % 2)) for n in range(40)),
            return_exceptions=True,
        )
        with pytest.raises(PayloadTooLargeError, match=r"max 65536 bytes\): it takes 65537"):
            await bench.queue.send_messages([("small", 1), ("large", "x" * (LARGEST - 1))])
        stored = [one.id for one in await bench.admin.messages(limit=100)]

    assert {type(answer) for answer in answers[1::2]} == {PayloadTooLargeError}
    assert sorted(answers[::2]) == stored  # type: ignore[type-var]


async def test_large_batches_at_once_let_another_process_in_between(tmp_path: Path) -> None:
    batch, most = 10_000, 100
    ids: list[int] = []
    between: list[int] = []

    async def flood(queue: KvQueue) -> None:
        while len(between) < 3 and len(ids) < batch * most:
            ids.extend(await queue.send_messages([("batch", None)] * batch))

    async with running(tmp_path, listen=False) as one, running(tmp_path, listen=False) as other:
        # Several at once, so that one commit follows upon the other.
        floods = asyncio.gather(*(flood(one.queue) for _ in range(4)))
        while not floods.done():
            between.append(await other.queue.send_message("alone"))
            await asyncio.sleep(0.01)
        await floods

    assert len({*ids, *between}) == len(ids) + len(between)
    assert len(ids) < batch * most


@needs_proc
async def test_large_batches_need_no_room_in_a_temporary_directory(tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "q.db"), KvQueueSettings())
    opened: set[str] = set()

    def look() -> int:
        opened.update(open_files())
        return 0

    store._thread.call(lambda connection: connection.set_progress_handler(look, 1_000))
    await send(store, *(mail(ordering_key=str(number % 5_000)) for number in range(10_000)))
    await store.close()

    assert len(opened) > 3
    assert [path for path in opened if "etilqs" in path] == []


@needs_proc
@pytest.mark.parametrize("concurrency", [100, 1_000])
def test_claims_of_large_payloads_pile_up_no_memory(tmp_path: Path, concurrency: int) -> None:
    # Each quote takes two bytes in JSON, and four in the JSON that claims come in.
    quotes = "'" + json.dumps('"' * 32_767) + "'"
    few = filled(tmp_path / "few.db", 10)
    large = filled(tmp_path / "large.db", 1_200, data=quotes)

    little = measured("handle", few, 10, concurrency)
    much = measured("handle", large, 1_200, concurrency)

    held_kib = concurrency * LARGEST // 1024
    assert much["peak_kib"] - little["peak_kib"] < 2 * held_kib + 150_000
    large.unlink()
