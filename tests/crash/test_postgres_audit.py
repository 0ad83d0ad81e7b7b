"""What the killer is told of the process that it has frozen."""

import asyncio
import os

import asyncpg

from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.postgres import locks
from kvqueue_fastapi.store.postgres.engine import PostgresStore
from kvqueue_fastapi.store.postgres.sessions import Transaction
from tests.crash.postgres_audit import PostgresDatabase

PEER = 1
STILL_S = 0.3


async def test_only_who_stands_within_a_transaction_is_told_to_have_a_lock(
    postgres_url: str,
) -> None:
    database = PostgresDatabase(postgres_url)
    store, peer = [await open_store(postgres_url, KvQueueSettings()) for _ in range(2)]
    assert isinstance(store, PostgresStore)
    await store.enter_listener(["mail"])
    peer_id = await peer.enter_listener(["mail"])
    outside = await asyncpg.connect(postgres_url)
    await outside.execute(
        "UPDATE kvqueue.kvqueue_listeners SET pid = $1 WHERE id = $2", PEER, peer_id
    )
    await outside.close()
    told = {}

    async def work(transaction: Transaction) -> None:
        await locks.lock_briefly(transaction, store._sessions.schema, {locks.VERSIONS}, None)
        for pid in (os.getpid(), PEER):
            told[pid] = await asyncio.to_thread(database.is_locked_by, pid, STILL_S)

    before = await asyncio.to_thread(database.is_locked_by, os.getpid(), STILL_S)
    await store._database.run(lambda: store._sessions.transact(work))
    await store.close()
    await peer.close()

    assert not before
    assert told == {os.getpid(): True, PEER: False}
