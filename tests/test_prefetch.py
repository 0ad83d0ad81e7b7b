from collections.abc import Sequence
from typing import NamedTuple

import pytest

from kvqueue_fastapi.model import Claim, Claimed, Wanted
from kvqueue_fastapi.prefetch import Asked, Prefetch
from kvqueue_fastapi.rooms import Rooms
from tests.test_rooms import in_thread, on_loop, rooms_for

SLOTS = 500
MAIL = [Wanted("mail", SLOTS)]


class Request(NamedTuple):
    wanted: Sequence[Wanted]
    limit: int
    quarantined: bool


class Backlog:
    """A store that has so many messages of one type.

    Attributes:
        requests: what it was asked for, in order.
    """

    def __init__(self, count: int) -> None:
        self.requests: list[Request] = []
        self._left = [
            Claim(number, 1, "mail", "null", 1, 0, 0, None, None) for number in range(count)
        ]

    async def claim(self, wanted: Sequence[Wanted], limit: int, *, quarantined: bool) -> Claimed:
        self.requests.append(Request(wanted, limit, quarantined))
        taken, self._left = self._left[:limit], self._left[limit:]
        return Claimed(taken, None, 0.0, [], made_ready=False)


@pytest.fixture
def rooms() -> Rooms:
    return rooms_for(concurrency=SLOTS, mail=(on_loop, None), pdf=(in_thread, None))


async def come(prefetch: Prefetch, asked: Asked) -> list[int]:
    """What it brings."""
    claimed = await asked.answer
    prefetch.note(asked, claimed)
    return [claim.id for claim in claimed.claims]


async def test_a_second_claim_is_under_way_when_the_one_before_it_came_full(rooms: Rooms) -> None:
    prefetch = Prefetch(rooms, Backlog(1_000).claim)

    first = await come(prefetch, prefetch.take(MAIL, is_all=True))
    before = prefetch.is_pending
    second = await come(prefetch, prefetch.take(MAIL, is_all=True))
    after = prefetch.is_pending
    third = await come(prefetch, prefetch.take(MAIL, is_all=True))

    assert (before, after) == (False, True)
    assert [*first, *second, *third] == list(range(450))


async def test_nothing_is_claimed_ahead_when_the_last_claim_brought_all_there_was(
    rooms: Rooms,
) -> None:
    prefetch = Prefetch(rooms, Backlog(200).claim)

    came = [await come(prefetch, prefetch.take(MAIL, is_all=True)) for _ in range(3)]

    assert [len(ids) for ids in came] == [150, 50, 0]
    assert not prefetch.is_pending


async def test_claims_under_way_together_ask_for_no_more_than_there_is_room_for(
    rooms: Rooms,
) -> None:
    store = Backlog(1_000)
    prefetch = Prefetch(rooms, store.claim)
    await come(prefetch, prefetch.take(MAIL, is_all=True))
    for _ in range(290):
        rooms.take("mail")

    await come(prefetch, prefetch.take(MAIL, is_all=True))
    await prefetch.rest()

    assert [request.limit for request in store.requests[1:]] == [150, 60]
    assert store.requests[2].wanted == [Wanted("mail", 60)]


async def test_only_the_first_of_two_claims_may_bring_a_quarantined_message(rooms: Rooms) -> None:
    store = Backlog(1_000)
    prefetch = Prefetch(rooms, store.claim)

    for _ in range(2):
        await come(prefetch, prefetch.take(MAIL, is_all=True))
    await prefetch.rest()

    assert [request.quarantined for request in store.requests] == [True, True, False]


async def test_a_type_with_a_limit_of_its_own_is_never_claimed_ahead(rooms: Rooms) -> None:
    prefetch = Prefetch(rooms, Backlog(1_000).claim)

    await come(prefetch, prefetch.take(MAIL, is_all=True))
    asked = prefetch.take([Wanted("pdf", 3)], is_all=True)

    assert not prefetch.is_pending
    await asked.answer


async def test_nothing_is_claimed_ahead_while_other_types_have_their_turns(rooms: Rooms) -> None:
    prefetch = Prefetch(rooms, Backlog(1_000).claim)

    for _ in range(3):
        await come(prefetch, prefetch.take(MAIL, is_all=False))

    assert not prefetch.is_pending


async def test_what_is_under_way_is_given_once(rooms: Rooms) -> None:
    prefetch = Prefetch(rooms, Backlog(1_000).claim)
    for _ in range(2):
        await come(prefetch, prefetch.take(MAIL, is_all=True))

    rest = [claim.id for claim in await prefetch.rest()]

    assert rest == list(range(300, 450))
    assert list(await prefetch.rest()) == []
