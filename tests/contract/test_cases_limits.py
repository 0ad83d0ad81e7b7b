"""Cases 35 to 37: how much fits into one commit."""

from typing import Any

import pytest

from kvqueue_fastapi import (
    AtomicOperation,
    Kv,
    KvQueueAdmin,
    KvQueueSettings,
    KvU64,
    PayloadTooLargeError,
)

LARGEST = bytes(65_536)
TOO_LARGE = r"^Total mutation size too large \(max 819200 bytes\): received 819201"


async def held(kv: Kv) -> list[Any]:
    return [entry.key async for entry in kv.list(prefix=())]


async def sent(admin: KvQueueAdmin) -> list[Any]:
    return [message.data for message in await admin.messages(limit=1_000)]


def filled(kv: Kv) -> AtomicOperation:
    """An operation of 12 sets, which take 786,480 bytes: each key of 2 bytes counts twice."""
    operation = kv.atomic()
    for number in range(1, 13):
        operation.set((number,), LARGEST)
    return operation


@pytest.mark.case(35)
async def test_1000_mutations_and_messages_are_the_most(silent: Kv, admin: KvQueueAdmin) -> None:
    operation = silent.atomic().check(("absent",), None)
    for number in range(0, 1_000, 4):
        operation.set((number,), 0).sum((number + 1,), number).delete((number,)).enqueue(number)

    committed = await operation.commit()

    assert await held(silent) == [(number + 1,) for number in range(0, 1_000, 4)]
    assert await sent(admin) == list(range(0, 1_000, 4))
    assert list(committed.message_ids) == [one.id for one in await admin.messages(limit=250)]


@pytest.mark.case(35)
@pytest.mark.parametrize("sends", [0, 1, 500, 1_001])
async def test_1001_mutations_and_messages_are_too_many(
    silent: Kv, admin: KvQueueAdmin, sends: int
) -> None:
    operation = silent.atomic()
    for number in range(sends):
        operation.send_message("m", number)
    for number in range(1_001 - sends):
        operation.delete((number,)) if number % 2 else operation.set((number,), 1)

    with pytest.raises(TypeError, match=r"^Too many mutations \(max 1000\): received 1001"):
        await operation.commit()

    assert (await held(silent), await sent(admin)) == ([], [])


@pytest.mark.case(36)
async def test_819200_bytes_of_keys_and_values_are_the_most(kv: Kv) -> None:
    await filled(kv).set((13,), bytes(32_716)).commit()
    await kv.atomic().delete((13,)).commit()

    with pytest.raises(TypeError, match=TOO_LARGE):
        await filled(kv).set((13,), bytes(32_717)).commit()

    assert (13,) not in await held(kv)


@pytest.mark.case(36)
async def test_keys_of_checks_and_deletes_count_once(kv: Kv) -> None:
    def operation(last: int) -> AtomicOperation:
        return filled(kv).check(("a",), None).delete(("bc",)).set((13,), bytes(last))

    with pytest.raises(TypeError, match=TOO_LARGE):
        await operation(32_716 - 3 - 4 + 1).commit()

    assert await held(kv) == []
    assert (await operation(32_716 - 3 - 4).commit()).ok


@pytest.mark.case(36)
async def test_payloads_count_as_utf8_and_four_bytes_for_each_step_of_a_schedule(
    silent: Kv, admin: KvQueueAdmin
) -> None:
    def operation(last: int) -> AtomicOperation:
        operation = silent.atomic()
        for _ in range(12):
            operation.enqueue("é" * 32_767)
        return operation.send_message("m", "x" * last, backoff_schedule=[1] * 20)

    with pytest.raises(TypeError, match=TOO_LARGE):
        await operation(32_768 - 80 - 2 + 1).commit()

    assert await sent(admin) == []
    assert (await operation(32_768 - 80 - 2).commit()).ok


@pytest.mark.case(36)
async def test_81920_bytes_of_keys_are_the_most_and_deletes_do_not_count(kv: Kv) -> None:
    operation = kv.atomic()
    for number in range(40):
        operation.set((b"%02d" % number * 1_023,), 1)
        operation.delete((b"-%02d" % number + b"x" * 2_043,))
    await operation.commit()
    written = await held(kv)

    for more in (operation.sum, operation.set):
        with pytest.raises(TypeError, match=r"^Total key size too large \(max 81920 bytes\): rec"):
            await more((1,), 1).commit()

    assert (len(written), await held(kv)) == (40, written)


@pytest.mark.case(36)
@pytest.mark.parametrize("limit", [65_537, 100_000, 1_000_000])
async def test_larger_values_make_the_whole_larger(url: str, limit: int) -> None:
    most = round(12.5 * limit)
    async with Kv.open(url, settings=KvQueueSettings(max_payload_bytes=limit)) as kv:
        operation = kv.atomic()
        for number in range(1, 13):
            operation.set((number,), bytes(limit))
        rest = most - 12 * (limit + 4) - 4

        assert (await operation.set((13,), bytes(rest)).commit()).ok
        with pytest.raises(TypeError, match=rf"^Total mutation size too large \(max {most} bytes"):
            await operation.set((13,), b"").commit()
        assert sum([len(entry.value) async for entry in kv.list(prefix=())]) == 12 * limit + rest


@pytest.mark.case(36)
async def test_one_message_has_the_limit_of_a_value(silent: Kv, admin: KvQueueAdmin) -> None:
    operation = silent.atomic().enqueue("x" * 65_534)

    with pytest.raises(TypeError, match=r"^enqueue payload too large \(max 65536 bytes\).*65537"):
        operation.enqueue("x" * 65_535)
    with pytest.raises(PayloadTooLargeError):
        operation.set(("a",), bytes(65_537))
    await operation.commit()

    assert [len(data) for data in await sent(admin)] == [65_534]
    assert await held(silent) == []


@pytest.mark.case(37)
async def test_100_checks_are_the_most(kv: Kv) -> None:
    await kv.set((0,), 1)
    entries = [await kv.get((0,))] * 50 + [await kv.get((number,)) for number in range(1, 51)]
    operation = kv.atomic().check(*entries).sum(("n",), 1)
    await operation.commit()

    with pytest.raises(TypeError, match=r"^Too many checks \(max 100\): received 101"):
        await operation.check(("n",), None).commit()

    assert (await kv.get(("n",))).value == KvU64(1)
