"""Through every driver: the message is there if and only if the caller's transaction commits."""

import asyncio

import pytest

from kvqueue_fastapi import (
    IdempotencyConflictError,
    KvQueue,
    KvQueueAdmin,
    OutgoingMessage,
    SendOptions,
)
from tests.joint.conftest import Desk, orders
from tests.joint.lenders import Lender, undone


async def test_message_is_handled_after_the_commit_and_never_before(
    queue: KvQueue, admin: KvQueueAdmin, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await lender.order(1)
        message_id = await queue.send_message("ordered", 1, connection=lender.lent)
        before = (await desk.is_idle(), await admin.message(message_id))

    assert before == (True, None)
    assert await desk.next() == 1
    assert await orders(lender) == [1]


async def test_message_of_a_transaction_that_raises_is_not_there(
    queue: KvQueue, admin: KvQueueAdmin, lender: Lender, desk: Desk
) -> None:
    async with undone(lender.transaction()):
        await lender.order(1)
        message_id = await queue.send_message("ordered", 1, connection=lender.lent)

    assert await desk.is_idle()
    assert await admin.message(message_id) is None
    assert await orders(lender) == []


async def test_message_of_a_savepoint_that_is_rolled_back_is_not_there(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await lender.order(1)
        async with undone(lender.savepoint()):
            await lender.order(2)
            await queue.send_message("ordered", 2, connection=lender.lent)
        await queue.send_message("ordered", 1, connection=lender.lent)

    assert await desk.next() == 1
    assert await desk.is_idle()
    assert await orders(lender) == [1]


async def test_message_of_a_savepoint_that_is_released_comes_after_the_commit(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await lender.order(1)
        async with lender.savepoint():
            await queue.send_message("ordered", 1, connection=lender.lent)
        before = await desk.is_idle()

    assert before
    assert await desk.next() == 1


async def test_message_of_a_released_savepoint_goes_with_its_transaction(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with undone(lender.transaction()):
        await lender.order(1)
        async with lender.savepoint():
            await queue.send_message("ordered", 1, connection=lender.lent)

    assert await desk.is_idle()
    assert await orders(lender) == []


async def test_savepoint_before_anything_else_holds_order_and_message_alike(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with undone(lender.transaction()), lender.savepoint():
        await queue.send_message("ordered", 1, connection=lender.lent)
        await lender.order(1)

    assert await desk.is_idle()
    assert await orders(lender) == []


async def test_connection_is_used_again_for_other_transactions(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    for number in range(6):
        block = undone(lender.transaction()) if number % 2 else lender.transaction()
        async with block:
            await queue.send_message("ordered", number, connection=lender.lent)
            await lender.order(number)

    assert [await desk.next() for _ in range(3)] == [0, 2, 4]
    assert await desk.is_idle()
    assert await orders(lender) == [0, 2, 4]


async def test_several_sends_of_a_transaction_come_together(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    many = [("ordered", number) for number in range(150)]

    async with lender.transaction():
        first = await queue.send_message("ordered", "first", connection=lender.lent)
        ids = await queue.send_messages(many, connection=lender.lent)
        last = await queue.send_message("ordered", "last", connection=lender.lent)
        nothing = await queue.send_messages([], connection=lender.lent)

    assert nothing == []
    assert [first, *ids, last] == sorted({first, *ids, last})
    handled = [await desk.next() for _ in range(152)]
    assert handled == ["first", *range(150), "last"]


async def test_every_option_is_stored_as_without_a_connection(
    queue: KvQueue, lender: Lender
) -> None:
    options = SendOptions(
        delay=3_600,
        backoff_schedule=[1, 2],
        keys_if_undelivered=[("undelivered", 7)],
        ordering_key="a customer: 100 %",
        priority=-3,
        headers={"trace": "4bf92f35 äöü %s $1"},
    )
    data = {"text": "50 % of $1, %s and %(p1)s: 'ä' \\ \"x\" \u2028 😀", "many": list(range(50))}

    async with lender.transaction():
        (within,) = await queue.send_messages(
            [OutgoingMessage("later", data, options)], connection=lender.lent
        )
    (alone,) = await queue.send_messages([OutgoingMessage("later", data, options)])
    async with lender.transaction():
        rows = await lender.run(
            "SELECT id, state, type, data, priority, ordering_key, options, due_at_ms - sent_at_ms"
            f" FROM {lender.schema}kvqueue_messages ORDER BY id"
        )

    # the first of its ordering key waits for its time, the other one for the first
    assert [row[:2] for row in rows] == [(within, 1), (alone, 2)]
    assert rows[0][2:] == rows[1][2:]
    assert rows[0][7] == 3_600_000


async def test_idempotency_key_holds_from_the_commit_on_and_within_the_transaction(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with undone(lender.transaction()):
        await queue.send_message("ordered", 1, connection=lender.lent, idempotency_key="a")
    async with lender.transaction():
        first = await queue.send_message("ordered", 2, connection=lender.lent, idempotency_key="a")
        again = await queue.send_message("ordered", 2, connection=lender.lent, idempotency_key="a")
        # A conflict leaves the transaction as it is.
        with pytest.raises(IdempotencyConflictError):
            await queue.send_message("ordered", 3, connection=lender.lent, idempotency_key="a")
        await lender.order(1)
    alone = await queue.send_message("ordered", 2, idempotency_key="a")

    assert first == again == alone
    assert await desk.next() == 2
    assert await desk.is_idle()
    assert await orders(lender) == [1]


async def test_ordering_key_holds_across_transactions_and_plain_sends(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        for number in (1, 2):
            await queue.send_message("ordered", number, connection=lender.lent, ordering_key="k")
    await queue.send_message("ordered", 3, ordering_key="k")
    async with lender.transaction():
        await queue.send_message("ordered", 4, connection=lender.lent, ordering_key="k")

    assert [await desk.next() for _ in range(4)] == [1, 2, 3, 4]


async def test_delayed_message_comes_when_it_is_due(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await queue.send_message("ordered", 1, connection=lender.lent, delay=0.3)

    assert await desk.is_idle()
    assert await desk.next() == 1


async def test_transaction_that_stays_open_for_a_while_wakes_all_the_same(
    queue: KvQueue, lender: Lender, desk: Desk
) -> None:
    async with lender.transaction():
        await queue.send_message("ordered", 1, connection=lender.lent)
        await asyncio.sleep(0.5)
    began = asyncio.get_running_loop().time()

    assert await desk.next() == 1
    # by an eighth of its age at the most, and some air for a busy machine
    assert asyncio.get_running_loop().time() - began < 0.5
