"""An id that was returned, or that any committed row carried, is never used again."""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kvqueue_fastapi import (
    IdempotencyConflictError,
    OutgoingMessage,
    Reject,
    SendOptions,
    StoreError,
)
from tests.contract.harness import Bench, running
from tests.faults.filling import rows
from tests.processes.fleet import Fleet

IDS = "SELECT id FROM kvqueue_messages UNION SELECT id FROM kvqueue_dead_letters"


class Witness:
    """Remembers every id that was returned or committed, and looks that new ones are new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[int] = set()

    def look(self) -> None:
        """Remember what is committed now."""
        self._seen |= {number for (number,) in rows(self._path, IDS)}

    def returned(self, *ids: int) -> None:
        assert not self._seen & set(ids)
        self._seen |= set(ids)
        self.look()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q.db"


@asynccontextmanager
async def rejecting(path: Path) -> AsyncGenerator[Bench]:
    """A queue whose handler makes a dead letter of every message it gets."""

    async def reject() -> None:
        raise Reject

    async with running(str(path), callbacks={"dead": reject}, listen=False) as bench:
        yield bench


async def test_ids_are_new_after_deaths_requeues_discards_and_restarts(path: Path) -> None:
    witness = Witness(path)
    for _ in range(3):
        async with rejecting(path) as bench:
            witness.returned(*await bench.queue.send_messages([("dead", 1), ("dead", 2)]))
            await bench.queue.run_until_idle()
            dead = [letter.id for letter in await bench.admin.dead_letters()]
            witness.returned(*(await bench.admin.requeue(dead[:1])).values())
            await bench.admin.discard(range(1, 100))
            witness.returned(await bench.queue.send_message("dead"))
            await bench.queue.run_until_idle()
            await bench.admin.discard(range(1, 100))
        with contextlib.closing(sqlite3.connect(path)) as keeper:
            keeper.execute("VACUUM")

    assert rows(path, IDS) == []


async def test_ids_are_new_after_writes_that_failed_on_their_way(path: Path) -> None:
    witness = Witness(path)
    async with rejecting(path) as bench:
        for number in range(5):
            once = SendOptions(idempotency_key=str(number))
            with pytest.raises(IdempotencyConflictError, match="of this commit") as caught:
                await bench.queue.send_messages(
                    [OutgoingMessage("m", n, once) for n in (number, number + 1)]
                )
            assert caught.value.message_id is None
            failed = await bench.kv.atomic().check(("k",), "1" * 20).send_message("m").commit()
            assert (failed.ok, list(failed.message_ids)) == (False, [])
            witness.returned(*await bench.queue.send_messages([("m", 1), ("m", 2)]))


async def test_ids_are_new_after_a_batch_that_was_rolled_back(path: Path) -> None:
    witness = Witness(path)
    async with rejecting(path) as bench:
        witness.returned(*await bench.queue.send_messages([("m", 1)] * 3))
        refuse = "BEGIN SELECT raise(ABORT, 'no') WHERE NEW.data = '\"bad\"'; END"
        with contextlib.closing(sqlite3.connect(path)) as foreign:
            foreign.execute(f"CREATE TRIGGER no AFTER INSERT ON kvqueue_messages {refuse}")

        sends = [bench.queue.send_message("m", "bad" if n == 25 else n) for n in range(50)]
        answers = await asyncio.gather(*sends, return_exceptions=True)
        ids = [answer for answer in answers if isinstance(answer, int)]
        assert (len(set(ids)), type(answers[25])) == (49, StoreError)
        witness.returned(*ids)
        witness.returned(await bench.queue.send_message("m"))


async def test_ids_are_new_after_senders_were_killed(fleet: Fleet) -> None:
    chance = random.Random(17)
    witness: Witness | None = None
    told = 0
    for _ in range(3):
        sender = await fleet.start("send", count=10_000, writers=5)
        await fleet.until(lambda seen=told: len(fleet.ledger.lines("sent")) > seen + 100)
        await asyncio.sleep(chance.uniform(0, 0.05))
        fleet.kill(sender)

        witness = witness or Witness(fleet.database)
        witness.returned(*(line.id for line in fleet.ledger.lines("sent")[told:]))
        told = len(fleet.ledger.lines("sent"))
        with contextlib.closing(sqlite3.connect(fleet.database)) as keeper, keeper:
            keeper.execute("DELETE FROM kvqueue_messages")

    assert witness is not None
    async with running(str(fleet.database), listen=False) as bench:
        witness.returned(await bench.queue.send_message("m"))
