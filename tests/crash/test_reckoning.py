"""The reckoning itself: whatever breaks a promise is found, and nothing else is blamed."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.crash.audit import DeadLetter, Entry, Remains
from tests.crash.history import History
from tests.crash.ledger import Line
from tests.crash.plan import LEASE_S, MAX_CRASHES
from tests.crash.reckoning import Report, reckon

ONE, TWO, THREE = 101, 102, 103
"""Processes that listen, as the holders 1, 2 and 3; the last one in few stories."""


class Story:
    """What happened to a few messages, told a line at a time."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.entries: list[Entry] = []
        self.dead: list[DeadLetter] = []
        self.waiting: list[int] = []
        self.effects = 0
        self.listening(ONE)
        self.listening(TWO)

    def listening(self, pid: int) -> None:
        self.entries.append(Entry("listening", 0, pid, 0, pid - ONE + 1, 0, None, 0))

    def sent(
        self, number: int, at: float, kind: str = "plain", *, delay: float = 0, lane: str = ""
    ) -> None:
        named = {"key": f"k{number}", "kind": kind, "lane": lane}
        self.lines.append(Line("sending", at, 1, due=at + delay, **named))
        self.stored(number, at, delay=delay, lane=lane)
        self.lines.append(Line("sent", at, 1, id=number, **named))

    def stored(self, number: int, at: float, *, delay: float = 0, lane: str = "") -> None:
        self.entries.append(Entry("stored", at, number, 0, 0, 0, lane or None, at + delay))

    def claimed(
        self, number: int, at: float, pid: int = ONE, attempt: int = 1, **more: Any
    ) -> None:
        self._row("claimed", number, at, pid, attempt, **more)

    def removed(
        self, number: int, at: float, pid: int = ONE, attempt: int = 1, **more: Any
    ) -> None:
        self._row("removed", number, at, pid, attempt, **more)

    def taken_away(self, number: int, at: float, pid: int = ONE, attempt: int = 1) -> None:
        self._row("taken away", number, at, pid, attempt)

    def did(
        self,
        event: str,
        number: int,
        at: float,
        pid: int = ONE,
        attempt: int = 1,
        kind: str = "plain",
        lane: str = "",
    ) -> None:
        self.lines.append(Line(event, at, pid, number, attempt, f"k{number}", kind, lane))

    def befell(self, fault: str, pid: int, at: float, until: float | None = None) -> None:
        self.lines.append(Line(fault, at, pid, until=until or at))

    def handled(
        self, number: int, at: float, pid: int = ONE, kind: str = "plain", lane: str = ""
    ) -> None:
        """Claimed, begun, ended and removed within a tenth of a second."""
        self.claimed(number, at, pid, lane=lane)
        self.did("begun", number, at, pid, kind=kind, lane=lane)
        self.did("ended", number, at + 0.1, pid, kind=kind)
        self.removed(number, at + 0.1, pid, lane=lane)

    def reckoned(self) -> Report:
        remains = Remains(self.entries, self.dead, self.waiting, self.effects, "ok")
        return reckon(History(self.lines, remains))

    def _row(
        self,
        event: str,
        number: int,
        at: float,
        pid: int,
        attempt: int,
        *,
        lane: str = "",
        due: float = 0,
        crashes: int = 0,
    ) -> None:
        holder = (ONE, TWO).index(pid) + 1
        self.entries.append(Entry(event, at, number, attempt, holder, crashes, lane or None, due))


@pytest.fixture
def story() -> Story:
    return Story()


def found(story: Story) -> Sequence[str]:
    return story.reckoned().broken


def test_message_that_is_handled_breaks_nothing(story: Story) -> None:
    story.sent(1, at=10)
    story.handled(1, at=10)

    assert found(story) == []


def test_sent_message_that_nobody_handled_is_lost(story: Story) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.removed(1, at=11)

    assert "message 1 was sent and is lost" in found(story)


def test_message_that_is_left_waits_for_ever(story: Story) -> None:
    story.sent(1, at=10)
    story.waiting = [1]

    assert "message 1 waits for ever" in found(story)


def test_id_that_comes_twice_is_found(story: Story) -> None:
    for at in (10, 20):
        story.sent(1, at)
        story.handled(1, at)

    assert "the id 1 was used 2 times" in found(story)


def test_settlement_of_a_stale_holder_is_found(story: Story) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10)
    story.befell("SIGSTOP", ONE, at=10, until=14)
    story.taken_away(1, at=12)
    story.claimed(1, at=12, pid=TWO, attempt=2)
    story.did("begun", 1, at=12, pid=TWO, attempt=2)
    story.did("ended", 1, at=14)
    story.removed(1, at=14, pid=TWO, attempt=2)
    story.did("ended", 1, at=15, pid=TWO, attempt=2)

    assert found(story) == [f"message 1 was settled, but not by its holder {TWO}"]


@pytest.mark.parametrize(("commits", "count"), [(True, 0), (False, 1)])
def test_cancelled_handler_has_settled_only_what_it_was_committing(
    story: Story, *, commits: bool, count: int
) -> None:
    story.sent(1, at=1, kind="effect")
    story.claimed(1, at=2)
    story.did("begun", 1, at=2, kind="effect")
    if commits:
        story.did("committing", 1, at=3, kind="effect")
        story.effects = 1
    story.did("cancelled", 1, at=4, kind="effect")

    story.removed(1, at=4)

    assert len([what for what in found(story) if "not by its holder" in what]) == count


def test_settlement_by_the_new_holder_is_fine_while_the_old_one_ends_late(story: Story) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10)
    story.befell("SIGSTOP", ONE, at=10, until=14)
    story.taken_away(1, at=12)
    story.claimed(1, at=12, pid=TWO, attempt=2)
    story.did("begun", 1, at=12, pid=TWO, attempt=2)
    story.did("ended", 1, at=14)
    story.did("ended", 1, at=15, pid=TWO, attempt=2)
    story.removed(1, at=15, pid=TWO, attempt=2)

    assert found(story) == []


def begun_twice(story: Story) -> None:
    """Begun by one process, and by another one before the first has ended."""
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10)
    story.taken_away(1, at=10.5)
    story.claimed(1, at=10.5, pid=TWO, attempt=2)
    story.did("begun", 1, at=10.5, pid=TWO, attempt=2)
    story.did("ended", 1, at=11, pid=TWO, attempt=2)
    story.removed(1, at=11, pid=TWO, attempt=2)


def test_second_delivery_without_a_reason_is_found(story: Story) -> None:
    begun_twice(story)

    (broken,) = found(story)
    assert broken.startswith(f"message 1 began again in {TWO}, but its handler in {ONE} was at it")


def test_second_delivery_after_a_kill_is_explained(story: Story) -> None:
    begun_twice(story)
    story.befell("SIGKILL", ONE, at=10.4)

    report = story.reckoned()

    assert report.broken == []
    assert report.figures["delivered again"] == "SIGKILL 1"


@pytest.mark.parametrize(("begun_at", "count"), [(10.52, 0), (10.6, 1)])
def test_thread_may_begin_between_a_process_s_last_word_and_its_death(
    story: Story, begun_at: float, count: int
) -> None:
    for number, at in ((1, begun_at), (2, 10.4)):
        story.sent(number, at=10)
        story.claimed(number, at=10.3)
        story.did("begun", number, at=at)
    story.did("dying", 2, at=10.5)
    for number in (1, 2):
        story.taken_away(number, at=10.7)
        story.claimed(number, at=10.7, pid=TWO, attempt=2, crashes=1)
        story.did("begun", number, at=10.7, pid=TWO, attempt=2)
        story.did("ended", number, at=10.8, pid=TWO, attempt=2)
        story.removed(number, at=10.8, pid=TWO, attempt=2)

    assert len(found(story)) == count


@pytest.mark.parametrize(("begins_at", "count"), [(5.1, 0), (5.5, 1)])
def test_thread_may_begin_just_after_its_process_goes_on(
    story: Story, begins_at: float, count: int
) -> None:
    story.sent(1, at=1)
    story.claimed(1, at=2)
    story.befell("SIGSTOP", ONE, at=2, until=5)
    story.taken_away(1, at=4.5)
    story.did("begun", 1, at=begins_at)
    story.did("ended", 1, at=begins_at + 0.1)

    story.claimed(1, at=begins_at + 0.2, pid=TWO, attempt=2)
    story.did("begun", 1, at=begins_at + 0.2, pid=TWO, attempt=2)
    story.did("ended", 1, at=begins_at + 0.3, pid=TWO, attempt=2)
    story.removed(1, at=begins_at + 0.3, pid=TWO, attempt=2)

    assert len([what for what in found(story) if "began again" in what]) == count


@pytest.mark.parametrize(("frozen", "count"), [(ONE, 0), (TWO, 1)])
def test_frozen_process_may_write_down_after_its_thaw_when_it_had_begun(
    story: Story, frozen: int, count: int
) -> None:
    story.sent(1, at=9)
    story.claimed(1, at=10)
    story.taken_away(1, at=12)
    story.claimed(1, at=12, pid=TWO, attempt=2)
    story.did("begun", 1, at=12.1, pid=TWO, attempt=2)
    story.befell("SIGSTOP", frozen, at=10.1, until=11.9)
    story.did("begun", 1, at=10)
    story.did("ended", 1, at=12.9, pid=TWO, attempt=2)
    story.removed(1, at=12.9, pid=TWO, attempt=2)

    assert len([what for what in found(story) if "began again" in what]) == count


def test_delivery_after_a_success_is_found_unless_its_process_died_before_it_was_told(
    story: Story,
) -> None:
    begun_twice(story)
    story.did("ended", 1, at=10.2)

    assert any("its handler in 101 ended" in broken for broken in found(story))
    story.befell("SIGKILL", ONE, at=10.3)
    assert found(story) == []


def test_retry_after_a_failure_needs_no_reason(story: Story) -> None:
    story.sent(1, at=10, kind="flaky")
    story.claimed(1, at=10)
    story.did("begun", 1, at=10, kind="flaky")
    story.did("failed", 1, at=10.1, kind="flaky")
    story._row("put back", 1, 10.1, ONE, 1)
    story.claimed(1, at=10.2, attempt=2)
    story.did("begun", 1, at=10.2, attempt=2, kind="flaky")
    story.did("ended", 1, at=10.3, attempt=2, kind="flaky")
    story.removed(1, at=10.3, attempt=2)

    assert found(story) == []


@pytest.mark.parametrize(("freed_at", "count"), [(12, 0), (13, 2)])
def test_slow_takeover_after_a_kill_is_found(story: Story, freed_at: float, count: int) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10)
    story.befell("SIGKILL", ONE, at=10.5)
    story.taken_away(1, at=freed_at)
    story.claimed(1, at=freed_at, pid=TWO, attempt=2)
    story.did("begun", 1, at=freed_at, pid=TWO, attempt=2)
    story.did("ended", 1, at=freed_at + 0.1, pid=TWO, attempt=2)
    story.removed(1, at=freed_at + 0.1, pid=TWO, attempt=2)

    assert len(found(story)) == count


@pytest.mark.parametrize(
    ("crashes", "busy_from", "count"),
    [
        (MAX_CRASHES - 2, 10, 0),
        (MAX_CRASHES - 2, 10.7, 0),  # the same claim has told it of the other one
        (MAX_CRASHES - 2, None, 1),
        (MAX_CRASHES - 3, 10, 1),
    ],
)
def test_takeover_waits_for_a_message_that_is_one_crash_from_its_end(
    story: Story, crashes: int, busy_from: float | None, count: int
) -> None:
    story.sent(1, at=10)
    story.sent(2, at=10)
    for number, before in ((1, 0), (2, crashes)):
        story.claimed(number, at=10, crashes=before)
        story.did("begun", number, at=10)
        story.taken_away(number, at=10.6)
    story.befell("SIGKILL", ONE, at=10.5)
    if busy_from:  # with what it waits for before it handles the other one apart
        story.sent(3, at=10)
        story.claimed(3, at=busy_from, pid=TWO)
        story.did("begun", 3, at=busy_from, pid=TWO)
        story.did("ended", 3, at=12.9, pid=TWO)
        story.removed(3, at=12.9, pid=TWO)
    for number, again_at, before in ((2, 12.9, crashes + 1), (1, 13, 1)):
        story.claimed(number, at=again_at, pid=TWO, attempt=2, crashes=before)
        story.did("begun", number, at=again_at, pid=TWO, attempt=2)
        story.did("ended", number, at=again_at + 0.1, pid=TWO, attempt=2)
        story.removed(number, at=again_at + 0.1, pid=TWO, attempt=2)

    assert len(found(story)) == count


def test_nobody_can_take_over_while_nobody_listens(story: Story) -> None:
    test_slow_takeover_after_a_kill_is_found(story, 13, 2)
    story.befell("SIGSTOP", TWO, at=10, until=12)

    assert found(story) == []


@pytest.mark.parametrize(("freed_at", "count"), [(0.5, 0), (1.5, 1)])
def test_slow_takeover_after_a_freeze_is_found(story: Story, freed_at: float, count: int) -> None:
    freed_at += 10 + LEASE_S
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10)
    story.befell("SIGSTOP", ONE, at=10, until=30)
    story.taken_away(1, at=freed_at)
    story.claimed(1, at=freed_at, pid=TWO, attempt=2)
    story.did("begun", 1, at=freed_at, pid=TWO, attempt=2)
    story.did("ended", 1, at=freed_at, pid=TWO, attempt=2)
    story.removed(1, at=freed_at, pid=TWO, attempt=2)

    assert len(found(story)) == count


def test_message_that_was_handled_apart_holds_nobody_up_any_more(story: Story) -> None:
    test_takeover_waits_for_a_message_that_is_one_crash_from_its_end(story, MAX_CRASHES - 3, 10, 1)
    story.sent(4, at=10)
    story.claimed(4, at=10, crashes=MAX_CRASHES - 1)
    story.did("begun", 4, at=10)
    story.did("ended", 4, at=10.4)
    story.removed(4, at=10.4)

    assert len(found(story)) == 1


@pytest.mark.parametrize(
    ("crashes", "is_alone", "count"),
    [(MAX_CRASHES - 2, True, 0), (MAX_CRASHES - 3, True, 1), (MAX_CRASHES - 2, False, 1)],
)
def test_takeover_after_a_freeze_waits_for_a_message_that_is_one_crash_from_its_end(
    story: Story, crashes: int, *, is_alone: bool, count: int
) -> None:
    if not is_alone:  # and who has nothing to do takes over at once
        story.listening(THREE)
    over_at = 10 + LEASE_S
    story.sent(1, at=10)
    story.sent(2, at=10)
    for number, before in ((1, 0), (2, crashes)):
        story.claimed(number, at=10, crashes=before)
        story.did("begun", number, at=10)
    story.befell("SIGSTOP", ONE, at=10, until=30)
    for number, began_at, done_at, before in (
        (2, over_at, over_at + 1.5, crashes + 1),
        (1, over_at + 1.5, over_at + 2, 1),
    ):
        story.taken_away(number, at=began_at)
        story.claimed(number, at=began_at, pid=TWO, attempt=2, crashes=before)
        story.did("begun", number, at=began_at, pid=TWO, attempt=2)
        story.did("ended", number, at=done_at, pid=TWO, attempt=2)
        story.removed(number, at=done_at, pid=TWO, attempt=2)

    assert len(found(story)) == count


def test_message_that_begins_before_its_time_is_found(story: Story) -> None:
    story.sent(1, at=10, delay=2)
    story.handled(1, at=11)

    assert found(story) == ["message 1 began 1.000 s early"]


def test_retry_that_is_claimed_before_its_time_is_found(story: Story) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10, due=11)
    story.did("begun", 1, at=10)
    story.did("ended", 1, at=10)
    story.removed(1, at=10)

    assert found(story) == ["message 1 was claimed 1.000 s early"]


def test_message_that_overtakes_another_one_of_its_key_is_found(story: Story) -> None:
    for number in (1, 2):
        story.sent(number, at=10, lane="a")
    story.handled(2, at=11, lane="a")
    story.handled(1, at=12, lane="a")

    assert found(story) == ["message 2 of a overtook 1", "the messages of a began out of order"]


def buried(story: Story, kind: str, reason: str, crashes: int, key: str = "k1") -> None:
    story.sent(1, at=10, kind=kind)
    story.claimed(1, at=10)
    story.did("begun", 1, at=10, kind=kind)
    story.did("failed", 1, at=11, kind=kind)
    story.removed(1, at=11)
    story.dead.append(DeadLetter(1, reason, crashes, key, undelivered=True))


def test_dead_letter_without_a_cause_is_found(story: Story) -> None:
    buried(story, "flaky", "PlannedError", 0)

    assert found(story) == ["message 1, flaky, is a dead letter without a cause: PlannedError"]


@pytest.mark.parametrize(("died_s_before", "count"), [(0.01, 0), (0.1, 1)])
def test_claim_may_arrive_just_after_its_claimant_was_killed(
    story: Story, died_s_before: float, count: int
) -> None:
    story.sent(1, at=10)
    for at in range(11, 16):
        story.claimed(1, at=at, attempt=at - 10)
        story.befell("SIGKILL", ONE, at=at - died_s_before)
        story.taken_away(1, at=at + 0.5, attempt=at - 10)
    story.dead.append(DeadLetter(1, "that was crash 5 of 5", 5, "k1", undelivered=True))

    assert len([what for what in found(story) if "without a cause" in what]) == count


def test_innocent_message_that_poison_buried_is_found(story: Story) -> None:
    buried(story, "plain", "that was crash 5 of 5", 5)
    story.sent(2, at=10, kind="poison")
    for at in range(20, 25):
        story.claimed(1, at)
        story.did("begun", 2, at, kind="poison")
        story.did("dying", 2, at, kind="poison")
        story.taken_away(1, at + 0.1)

    assert "message 1 is innocent, and a poison message buried it" in found(story)


def test_doomed_message_that_is_no_dead_letter_is_found(story: Story) -> None:
    story.sent(1, at=10, kind="doomed")
    story.handled(1, at=10, kind="doomed")

    assert found(story) == ["message 1, doomed, should be a dead letter"]


def test_dead_letter_whose_key_was_not_written_is_found(story: Story) -> None:
    buried(story, "rejected", "Reject", 0)
    story.dead = [story.dead[0]._replace(undelivered=False)]

    assert found(story) == ["message 1 is a dead letter without its key"]


def test_effect_that_happened_twice_is_found(story: Story) -> None:
    story.sent(1, at=10, kind="effect")
    story.handled(1, at=10, kind="effect")
    story.effects = 2

    assert found(story) == ["1 effects were due, the counter says 2"]


def test_send_that_was_stored_twice_is_found(story: Story) -> None:
    story.sent(1, at=10)
    story.handled(1, at=10)
    story.stored(2, at=11)
    story.handled(2, at=11)
    story.lines = [line._replace(key="k1") for line in story.lines]

    assert found(story) == ["one send was stored as [1, 2]"]


def failing_twice(story: Story, again_at: float) -> None:
    story.sent(1, at=10, kind="doomed")
    for attempt, at in ((1, 10), (2, again_at)):
        story.claimed(1, at, attempt=attempt)
        story.did("begun", 1, at, attempt=attempt, kind="doomed")
        story.did("failed", 1, at, attempt=attempt, kind="doomed")
        story._row("put back", 1, at, ONE, attempt)


@pytest.mark.parametrize(("again_at", "is_early"), [(10.01, True), (10.06, False)])
def test_retry_that_comes_too_soon_is_found(
    story: Story, again_at: float, *, is_early: bool
) -> None:
    failing_twice(story, again_at)

    assert ("message 1 was tried again before 0.05 s were over" in found(story)) == is_early


def test_what_was_not_settled_while_a_lock_held_up_the_end_is_explained(story: Story) -> None:
    begun_twice(story)
    story.did("ended", 1, at=10.2)
    story.befell("SIGSTOP within a commit", 999, at=10.1, until=10.4)

    assert len(found(story)) == 1
    story.entries.append(Entry("left", 10.5, ONE, 0, 1, 0, None, 0))
    assert found(story) == []


@pytest.mark.parametrize(("fault", "count"), [("SIGSTOP", 0), ("SIGTERM", 1)])
def test_claim_that_begins_after_a_newer_one_is_explained_by_a_freeze_alone(
    story: Story, fault: str, count: int
) -> None:
    story.sent(1, at=10)
    story.claimed(1, at=10)
    story.befell(fault, ONE, at=10.1, until=13)
    story.taken_away(1, at=12)
    story.claimed(1, at=12, pid=TWO, attempt=2)
    story.did("begun", 1, at=12, pid=TWO, attempt=2)
    story.did("ended", 1, at=12.1, pid=TWO, attempt=2)
    story.removed(1, at=12.1, pid=TWO, attempt=2)
    story.did("begun", 1, at=13)
    story.did("ended", 1, at=13.1)

    assert len(found(story)) == count
