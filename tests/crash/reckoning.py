"""The promises, each held against what happened."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tests.crash.history import DEATHS, FREEZES, Delivery, History
from tests.crash.plan import LEASE_S, MAX_CRASHES, SCHEDULE_S
from tests.crash.spans import Span, seconds_within

KILL_TAKEOVER_S: Final = 2.0
FREEZE_TAKEOVER_S: Final = 1.0
"""Beyond the lease."""
LEAST_KILLS: Final = 20
"""After so many a run must have shown something."""
ARRIVES_S: Final = 0.05
"""From a claimant's death to the claim that the server had been asked for."""
TICK_S: Final = 0.002
"""The audit counts whole milliseconds."""


@dataclass
class Report:
    """What a run has shown.

    Attributes:
        kills: how many processes were killed, ended or frozen.
        figures: by what they count, in the order in which they are shown.
        broken: a sentence for each promise that was not kept; []: all were.
    """

    kills: int = 0
    figures: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{name:<{width}}  {figure}" for name, figure in self.figures.items()]
        return "\n".join([*lines, *(f"BROKEN: {what}" for what in self.broken)])


def reckon(history: History) -> Report:
    """Hold every promise against what happened."""
    report = Report()
    promises = (
        _count, _nothing_lost, _stored_once, _nothing_stale, _duplicates_explained,
        _taken_over_after_kills, _taken_over_after_freezes, _nothing_early, _lanes_in_order,
        _dead_letters_accounted, _effects_once,
    )  # fmt: skip
    for promise in promises:
        report.broken += promise(history, report)
    return report


def _count(history: History, report: Report) -> Iterator[str]:
    faults = Counter(f.event for faults in history.faults.values() for f in faults)
    faults["outage"] = sum(line.event == "outage" for line in history.lines)
    report.figures["faults"] = _listed(+faults)
    unsure = sum(line.event == "unsure" for line in history.lines)
    report.figures["sent"] = f"{len(history.sent):,}, and {unsure:,} given up without an answer"
    begun = sum(map(len, history.deliveries.values()))
    report.figures["deliveries"] = f"{begun:,} of {len(history.deliveries):,} messages"
    if history.remains.integrity != "ok":
        yield f"the database is damaged: {history.remains.integrity}"


def _nothing_lost(history: History, report: Report) -> Iterator[str]:
    dead = {letter.id for letter in history.remains.dead_letters}
    handled = {
        message_id
        for message_id, deliveries in history.deliveries.items()
        if any(one.end == "ended" or one.commits_at < math.inf for one in deliveries)
    }
    lost = set(history.sent.values()) - handled - dead - set(history.remains.waiting)
    report.figures["handled"] = f"{len(handled):,}"
    report.figures["lost"] = str(len(lost))
    report.figures["left waiting"] = str(len(history.remains.waiting))
    yield from (f"message {one} was sent and is lost" for one in sorted(lost))
    yield from (f"message {one} waits for ever" for one in history.remains.waiting)
    removed = {e.id for e in history.remains.entries if e.event == "removed"}
    unseen = removed - handled - dead
    yield from (f"message {one} was removed and never handled" for one in sorted(unseen))


def _stored_once(history: History, _report: Report) -> Iterator[str]:
    stored = Counter(e.id for e in history.remains.entries if e.event == "stored")
    yield from (f"the id {one} was used {n} times" for one, n in stored.items() if n > 1)
    yield from (
        f"the id {one} was told, but never stored"
        for one in history.sent.values()
        if one not in stored
    )
    told = Counter(history.sent.values())
    yield from (f"the id {one} was told for {n} messages" for one, n in told.items() if n > 1)
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for message_id, deliveries in history.deliveries.items():
        ids[deliveries[0].line.key].append(message_id)
    yield from (f"one send was stored as {many}" for many in ids.values() if len(many) > 1)


def _nothing_stale(history: History, report: Report) -> Iterator[str]:
    """Whoever held the message when it was settled had come to its end."""
    buried = {one.id for one in history.remains.dead_letters if "crash " in one.reason}
    stale = 0
    for holding in history.all_holdings():
        if holding.end != "removed" or holding.id in buried:
            continue
        ends = (
            # A commit under way when its handler was cancelled was awaited.
            min(math.inf if one.end == "cancelled" else one.ended_at, one.commits_at)
            for one in history.deliveries.get(holding.id, [])
            if (one.line.pid, one.line.attempt) == (holding.pid, holding.attempt)
        )
        if not any(end <= holding.span.end + TICK_S for end in ends):
            stale += 1
            yield f"message {holding.id} was settled, but not by its holder {holding.pid}"
    report.figures["settled by a stale holder"] = str(stale)


def _duplicates_explained(history: History, report: Report) -> Iterator[str]:
    explained: Counter[str] = Counter()
    for message_id, deliveries in history.deliveries.items():
        for before, after in pairwise(deliveries):
            if before.end == "failed" and before.ended_at <= after.line.at:
                continue  # asked for
            why = _why_again(history, before, after)
            explained[why or "UNEXPLAINED"] += 1
            if not why:
                yield (
                    f"message {message_id} began again in {after.line.pid}, but its handler in "
                    f"{before.line.pid} {before.end or 'was at it'}, and nothing befell that"
                )
    report.figures["delivered again"] = _listed(explained) or "never"


def _why_again(history: History, before: Delivery, after: Delivery) -> str:
    if before.end == "cancelled" and before.ended_at <= after.line.at:
        return "given back at SIGTERM"
    # One that was frozen writes down after its thaw when it had begun before.
    window = Span(*sorted((before.line.at, after.line.at)))
    if after.line.attempt < before.line.attempt:
        # An older claim, whose holder was frozen before its handler could begin.
        return history.died_or_froze(after.line.pid, window)
    return history.died_or_froze(before.line.pid, window)


def _taken_over_after_kills(history: History, report: Report) -> Iterator[str]:
    slowest_freed, slowest_again, taken = 0.0, 0.0, 0
    for holding in history.all_holdings():
        deaths = [f for f in history.faults[holding.pid] if f.event in DEATHS]
        died_at = min((f.until for f in deaths), default=math.inf)
        if not holding.span.holds(died_at) or holding.end == "put back":
            continue
        others = history.others_listening(holding.pid)
        freed_s = seconds_within(others, Span(died_at, holding.span.end))
        slowest_freed, taken = max(slowest_freed, freed_s), taken + 1
        if freed_s > KILL_TAKEOVER_S:
            yield f"message {holding.id} was freed {freed_s:.2f} s after {holding.pid} died"
        if holding.end == "taken away" and holding.crashes == 0:
            window = Span(died_at, holding.again_at)
            again_s = seconds_within(history.others_free(holding.pid), window)
            slowest_again = max(slowest_again, again_s)
            if again_s > KILL_TAKEOVER_S:
                yield f"message {holding.id} was claimed {again_s:.2f} s after {holding.pid} died"
    faults = [fault.event for faults in history.faults.values() for fault in faults]
    kills = faults.count("SIGKILL")
    if kills > LEAST_KILLS and taken < kills:
        yield f"{kills} kills found only {taken} messages in hand, which shows little"
    if kills > LEAST_KILLS and "SIGTERM" not in faults:
        yield "nobody was ended by SIGTERM"
    report.figures["taken over after a death"] = (
        f"{taken:,} messages; the slowest was freed after {slowest_freed:.2f} s, "
        f"claimed anew after {slowest_again:.2f} s"
    )


def _taken_over_after_freezes(history: History, report: Report) -> Iterator[str]:
    slowest, taken = 0.0, 0
    for holding in history.all_holdings():
        for fault in history.faults[holding.pid]:
            if fault.event not in FREEZES or not holding.span.holds(fault.at):
                continue
            deaths = [f.at for f in history.faults[holding.pid] if f.event in DEATHS]
            thawed_at = min([fault.until, *deaths])
            taken += holding.end == "taken away" and holding.span.end <= thawed_at
            window = Span(fault.at + LEASE_S, min(holding.span.end, thawed_at))
            if window.begin >= window.end:
                continue
            late_s = seconds_within(history.others_free(holding.pid), window)
            slowest = max(slowest, late_s)
            if late_s > FREEZE_TAKEOVER_S:
                yield f"message {holding.id} stayed {late_s:.2f} s beyond the lease with a frozen"
    report.figures["taken over from a frozen process"] = (
        f"{taken:,} messages; at the latest {slowest:.2f} s after the lease of {LEASE_S:g} s"
    )


def _nothing_early(history: History, report: Report) -> Iterator[str]:
    early = 0
    for entry in history.remains.entries:
        if entry.event == "claimed" and entry.at < entry.due - TICK_S:
            early += 1
            yield f"message {entry.id} was claimed {entry.due - entry.at:.3f} s early"
    due = {line.key: line.due for line in history.lines if line.event == "sending"}
    for message_id, deliveries in history.deliveries.items():
        wait_s = due[deliveries[0].line.key] - deliveries[0].line.at
        if wait_s > TICK_S:
            early += 1
            yield f"message {message_id} began {wait_s:.3f} s early"
    for message_id, failed_at, again_at, step_s in _retries(history):
        if again_at < failed_at + step_s - TICK_S:
            early += 1
            yield f"message {message_id} was tried again before {step_s:g} s were over"
    report.figures["handled early"] = str(early)


def _retries(history: History) -> Iterator[tuple[int, float, float, float]]:
    """Failures that the store took: the message, when, when it came again, the step between."""
    for message_id, holdings in history.holdings.items():
        failed = {
            (one.line.pid, one.line.attempt): one.ended_at
            for one in history.deliveries.get(message_id, [])
            if one.end == "failed" and one.line.kind in {"flaky", "doomed"}
        }
        taken = [
            (failed[before.pid, before.attempt], before.again_at)
            for before, after in pairwise(holdings)
            # What was only given back has the same attempt once more.
            if before.end == "put back"
            and after.attempt > before.attempt
            and failed.get((before.pid, before.attempt), math.inf) <= before.span.end + TICK_S
        ]
        for (failed_at, again_at), step_s in zip(taken, SCHEDULE_S, strict=False):
            yield message_id, failed_at, again_at, step_s


def _lanes_in_order(history: History, report: Report) -> Iterator[str]:
    """Of an ordering key, only the first that is not done is ever claimed."""
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    broken = 0
    for entry in history.remains.entries:
        if entry.lane is None:
            continue
        if entry.event == "stored":
            waiting[entry.lane].append(entry.id)
        elif entry.event == "removed":
            waiting[entry.lane].remove(entry.id)
        elif entry.event == "claimed" and entry.id != min(waiting[entry.lane]):
            broken += 1
            yield f"message {entry.id} of {entry.lane} overtook {min(waiting[entry.lane])}"
    for lane, ids in _begun_in_lanes(history).items():
        if ids != sorted(ids):
            broken += 1
            yield f"the messages of {lane} began out of order"
    report.figures["ordering keys"] = f"{len(waiting)}, overtaken {broken} times"


def _begun_in_lanes(history: History) -> dict[str, list[int]]:
    firsts = sorted((one[0].line for one in history.deliveries.values()), key=lambda one: one.at)
    begun: defaultdict[str, list[int]] = defaultdict(list)
    for line in firsts:
        if line.lane:
            begun[line.lane].append(line.id)
    return begun


def _dead_letters_accounted(history: History, report: Report) -> Iterator[str]:
    dead = {letter.id: letter for letter in history.remains.dead_letters}
    causes: Counter[str] = Counter()
    for letter in dead.values():
        cause = _cause_of(history, letter.id, history.kinds[letter.key], letter.reason)
        causes[cause or "UNEXPLAINED"] += 1
        if not cause:
            kind = history.kinds[letter.key]
            yield f"message {letter.id}, {kind}, is a dead letter without a cause: {letter.reason}"
        if cause == "poison" and history.kinds[letter.key] != "poison":
            yield f"message {letter.id} is innocent, and a poison message buried it"
        if not letter.undelivered:
            yield f"message {letter.id} is a dead letter without its key"
    for key, message_id in history.sent.items():
        if history.kinds[key] in {"poison", "doomed", "rejected"} and message_id not in dead:
            yield f"message {message_id}, {history.kinds[key]}, should be a dead letter"
    report.figures["dead letters"] = _listed(causes) or "none"


def _cause_of(history: History, message_id: int, kind: str, reason: str) -> str:
    deliveries = history.deliveries.get(message_id, [])
    ends = Counter(one.end for one in deliveries)
    if "crash " in reason:
        # The server may do what it was asked for when whoever asked is gone.
        spans = [
            (one.pid, one.span._replace(begin=one.span.begin - ARRIVES_S))
            for one in history.holdings[message_id]
        ]
        blows = [history.died_or_froze(pid, span) for pid, span in spans]
        crashes = [blow for blow in blows if blow]
        if len(crashes) < MAX_CRASHES:
            return ""
        # Whoever dealt the last blow: a message of its own process, or somebody outside.
        return "poison" if crashes[-1] == "dying" else "its processes were killed"
    if kind == "rejected":
        return "rejected" if ends["failed"] else ""
    return "failed for the last time" if ends["failed"] > len(SCHEDULE_S) else ""


def _effects_once(history: History, report: Report) -> Iterator[str]:
    sure = {
        history.sent[key]
        for key, kind in history.kinds.items()
        if kind == "effect" and key in history.sent
    }
    removed = {e.id for e in history.remains.entries if e.event == "removed"}
    dead = {letter.id for letter in history.remains.dead_letters}
    asked = {
        message_id
        for message_id, deliveries in history.deliveries.items()
        if deliveries[0].line.kind == "effect"
    }
    due = len(((asked | sure) & removed) - dead)
    report.figures["effects in the store"] = f"{history.remains.effects:,} of {due:,}"
    if history.remains.effects != due:
        yield f"{due} effects were due, the counter says {history.remains.effects}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def total(reports: Iterable[Report]) -> list[str]:
    """What was broken in any of several runs."""
    return [what for report in reports for what in report.broken]
