"""What changed behind a copy's back is noticed before anybody can use the target."""

import pytest

from kvqueue_fastapi import (
    CopyProgress,
    StoreError,
)
from tests.copying.pairs import Pair
from tests.store.given import (
    ManualClock,
)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        (
            "UPDATE {schema}.kvqueue_messages SET data = '0' WHERE type = 'later'",
            r"kvqueue_messages .*: message \d+ differs in data",
        ),
        (
            "UPDATE {schema}.kvqueue_messages SET due_at_ms = 1, attempt = 9 WHERE type = 'later'",
            r"message \d+ differs in due_at_ms, attempt",
        ),
        (
            "DELETE FROM {schema}.kvqueue_messages WHERE type = 'later'",
            r"message \d+ is missing in the target",
        ),
        (
            "INSERT INTO {schema}.kvqueue_messages (id, type) VALUES (99999999, 'new')",
            "message 99999999 is in the target alone",
        ),
        (
            "UPDATE {schema}.kvqueue_kv SET version = version + 1 WHERE encoding = 2",
            r"kvqueue_kv .*: key b'\\x02count\\x00' differs in version",
        ),
        (
            "UPDATE {schema}.kvqueue_idempotency SET expires_at_ms = 0 WHERE key = 'paid'",
            r"idempotency key \('mail', 'paid'\) differs in expires_at_ms",
        ),
    ],
)
async def test_a_row_that_changed_behind_our_back_is_named_and_the_target_stays_shut(
    filled: Pair, clock: ManualClock, tampering: str, named: str
) -> None:
    first = True

    def tamper(told: CopyProgress) -> None:
        nonlocal first
        if told.step == "check" and first:
            first = False
            filled.target.execute(tampering)

    with pytest.raises(StoreError, match=named):
        await filled.copy(tamper)
    with pytest.raises(StoreError, match=named):  # whoever tries again is told again
        await filled.copy()
    with pytest.raises(StoreError, match="unfinished copy"):
        async with filled.target.opened(clock):
            pass


async def test_a_message_that_is_sent_while_the_source_is_copied_is_noticed(
    filled: Pair, clock: ManualClock
) -> None:
    def send_one(told: CopyProgress) -> None:
        if (told.step, told.table) == ("check", "kvqueue_messages"):
            filled.source.execute(
                "INSERT INTO {schema}.kvqueue_messages (id, type) VALUES (88888888, 'new')"
            )

    with pytest.raises(StoreError, match=r"was used while it was copied: .*empty the target"):
        await filled.copy(send_one)


async def test_a_counter_that_went_back_is_noticed(filled: Pair) -> None:
    def forget(told: CopyProgress) -> None:
        if told.step == "check" and filled.target.is_sqlite:
            filled.target.execute("UPDATE kvqueue_schema SET kv_version = 0")
        elif told.step == "check":
            filled.target.execute("SELECT setval('{schema}.kvqueue_versions', 0)")

    with pytest.raises(StoreError, match="something has changed its counters"):
        await filled.copy(forget)
