"""What comes together goes into one commit, each request seeing what those before it did."""

import asyncio

from kvqueue_fastapi.model import Outcome
from kvqueue_fastapi.store import AnyStore
from tests.store.given import claim, claimed_ids, ending, mail, send


async def test_claims_of_one_commit_see_what_it_sent_and_settled(store: AnyStore) -> None:
    await send(store, mail())
    (held,) = await claim(store)

    sent, _, found = await asyncio.gather(
        send(store, mail()),
        store.settle([ending(held, Outcome.RELEASE)]),
        claimed_ids(store),
    )

    assert found == [held.id, *sent]
