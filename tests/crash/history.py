"""Ledger and audit put together: who held which message when, and what befell whom."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.crash.audit import Entry, Remains
from tests.crash.ledger import Line
from tests.crash.plan import MAX_CRASHES
from tests.crash.spans import Span, seconds_within, without

DEATHS: Final = frozenset({"SIGKILL", "dying"})
FREEZES: Final = frozenset({"SIGSTOP", "SIGSTOP within a commit", "cut off"})
RECOVERY_S: Final = 2.0
"""After an outage: a process connects again, and takes nobody for dead for a second more."""
LAST_S: Final = 0.05
"""From a process's word that it dies to its death, at the most."""
THAW_S: Final = 0.2
"""From the moment when a process goes on to the start of a thread that it was about to start."""
CLAIM_S: Final = 0.05
"""From the first to the last row of one claim, and of the one that was under way beside it."""
ENDS: Final = frozenset({"ended", "failed", "cancelled", "dying"})


@dataclass(slots=True)
class Delivery:
    """One handler that began, and how it ended.

    Attributes:
        end: "ended", "failed", "cancelled", "dying"; "": its process was gone before.
        ended_at: when; for ever where it did not.
        commits_at: when it began to settle its own message.
    """

    line: Line
    end: str = ""
    ended_at: float = math.inf
    commits_at: float = math.inf


class Holding(NamedTuple):
    """One claim, from its commit to the one that ended it.

    Attributes:
        end: "put back", "taken away" or "removed"; "": it is not over.
        again_at: when the message was claimed anew; for ever where it was not.
    """

    id: int
    pid: int
    attempt: int
    crashes: int
    span: Span
    end: str
    again_at: float


class History:
    """What is known of one run.

    Attributes:
        sent: the ids that clients were told, by their own key.
        kinds: what each message asks of its handler, by the client's key.
        deliveries: of each message, as they began.
        holdings: of each message, as it was claimed.
        faults: of each process.
        locked: when a frozen process held the database's lock, or the server was away.
        listening: when each process listened and was neither frozen nor dead.
        free: when each process listened, and kept nothing from others by handling a message that
            is one crash from its end apart, or by waiting for its handlers before that.
    """

    def __init__(self, lines: Sequence[Line], remains: Remains) -> None:
        self.lines = lines
        self.remains = remains
        self.sent = {line.key: line.id for line in lines if line.event == "sent"}
        self.kinds = {line.key: line.kind for line in lines if line.event == "sending"}
        self.faults = _faults(lines)
        self.deliveries = _deliveries(lines)
        self._pids = {e.holder: e.id for e in remains.entries if e.event == "listening"}
        self._left: defaultdict[int, list[float]] = defaultdict(list)
        for entry in remains.entries:
            if entry.event == "left":
                self._left[entry.id].append(entry.at)
        self.holdings: defaultdict[int, list[Holding]] = defaultdict(list)
        for holding in _holdings(remains.entries, self._pids):
            self.holdings[holding.id].append(holding)
        self.locked = [
            Span(fault.at, fault.until)
            for faults in self.faults.values()
            for fault in faults
            if fault.event == "SIGSTOP within a commit"
        ]
        self.locked += [
            Span(line.at, line.until + RECOVERY_S) for line in lines if line.event == "outage"
        ]
        pids = set(self._pids.values())
        self.listening = {pid: self._listening(pid) for pid in pids}
        apart = _apart(list(self.all_holdings()))
        self.free = {pid: without(self.listening[pid], apart[pid]) for pid in pids}

    def died_or_froze(self, pid: int, window: Span) -> str:
        """The fault that befell a process within a window; "": none.

        What it stopped with in good order while the database was locked was not settled.
        """
        for fault in self.faults[pid]:
            is_mortal = fault.event in DEATHS | FREEZES
            # It says so just before it dies, and its threads may begin something in between; so
            # they may when it goes on, with what had been looked at before it stood still.
            until = fault.until + LAST_S * (fault.event == "dying")
            until += THAW_S * (fault.event in FREEZES)
            if is_mortal and fault.at <= window.end and until >= window.begin:
                return fault.event
        has_left = any(window.holds(at) for at in self._left[pid])
        if has_left and any(seconds_within([span], window) for span in self.locked):
            return "locked while it stopped"
        return ""

    def all_holdings(self) -> Iterator[Holding]:
        """Those of every message."""
        for holdings in self.holdings.values():
            yield from holdings

    def others_listening(self, pid: int) -> list[Span]:
        """When somebody else could have ended the leases of a process that died."""
        return self._others(pid, self.listening)

    def others_free(self, pid: int) -> list[Span]:
        """When somebody else could have claimed what a process had held."""
        return self._others(pid, self.free)

    def _others(self, pid: int, spans_of: dict[int, list[Span]]) -> list[Span]:
        others = (span for one, spans in spans_of.items() if one != pid for span in spans)
        # Of who dies while it is cut off, the server hears when it may.
        silent = [
            Span(f.at, f.until + RECOVERY_S) for f in self.faults[pid] if f.event == "cut off"
        ]
        return without(others, self.locked + silent)

    def _listening(self, pid: int) -> list[Span]:
        entered = [e.at for e in self.remains.entries if e.event == "listening" and e.id == pid]
        left = [e.at for e in self.remains.entries if e.event == "left" and e.id == pid]
        died = [fault.at for fault in self.faults[pid] if fault.event in DEATHS]
        stopping = [fault.at for fault in self.faults[pid] if fault.event == "SIGTERM"]
        end = min(left + died + stopping, default=math.inf)
        # Who was cut off itself spares the leases of others for a moment when it is back.
        frozen = [
            Span(f.at, f.until + RECOVERY_S * (f.event == "cut off"))
            for f in self.faults[pid]
            if f.event in FREEZES
        ]
        return without([Span(min(entered), end)], frozen)


def _apart(holdings: Sequence[Holding]) -> defaultdict[int, list[Span]]:
    """When each process handled a message that was one crash from its end, or made ready for it.

    It begins nothing else then, and before that it waits for the handlers that it has begun.
    """
    apart: defaultdict[int, list[Span]] = defaultdict(list)
    held: defaultdict[int, list[Span]] = defaultdict(list)
    for one in holdings:
        held[one.pid].append(one.span)
    for last in holdings:
        if last.crashes >= MAX_CRASHES - 1:
            apart[last.pid].append(last.span)
        is_taken = last.end == "taken away"
        if last.crashes + is_taken >= MAX_CRASHES - 1 and (is_taken or last.end == "put back"):
            waits = Span(last.span.end, last.again_at)
            for pid, spans in held.items():
                apart[pid] += _handled_before(waits, spans)
    return apart


def _handled_before(waits: Span, spans: Sequence[Span]) -> Iterator[Span]:
    """What a process goes on with while a message waits to be handled apart."""
    # It hears of the message by its next claim, which may bring others, too.
    heard_at = min((span.begin for span in spans if span.begin > waits.begin), default=math.inf)
    for span in spans:
        if span.begin <= heard_at + CLAIM_S:
            yield Span(max(span.begin, waits.begin), min(span.end, waits.end))


def _faults(lines: Iterable[Line]) -> defaultdict[int, list[Line]]:
    faults: defaultdict[int, list[Line]] = defaultdict(list)
    for line in lines:
        if line.event == "dying":
            faults[line.pid].append(line._replace(until=line.at))
        elif line.event in DEATHS | FREEZES | {"SIGTERM"}:
            faults[line.pid].append(line)
    return faults


def _deliveries(lines: Iterable[Line]) -> dict[int, list[Delivery]]:
    by_message: defaultdict[int, list[Delivery]] = defaultdict(list)
    open_ones: dict[tuple[int, int], Delivery] = {}
    for line in lines:
        if line.event == "begun":
            open_ones[line.id, line.pid] = delivery = Delivery(line)
            by_message[line.id].append(delivery)
        elif line.event == "committing":
            open_ones[line.id, line.pid].commits_at = line.at
        elif line.event in ENDS:
            delivery = open_ones[line.id, line.pid]
            delivery.end, delivery.ended_at = line.event, line.at
    return dict(by_message)


def _holdings(entries: Sequence[Entry], pids: dict[int, int]) -> Iterable[Holding]:
    held: dict[int, Entry] = {}
    waiting: dict[int, Holding] = {}
    for entry in entries:
        if entry.event == "claimed":
            if before := waiting.pop(entry.id, None):
                yield before._replace(again_at=entry.at)
            held[entry.id] = entry
        elif entry.event in {"put back", "taken away", "removed"} and entry.id in held:
            claimed = held.pop(entry.id)
            span = Span(claimed.at, entry.at)
            pid = pids.get(claimed.holder, 0)
            waiting[entry.id] = Holding(
                entry.id, pid, claimed.attempt, claimed.crashes, span, entry.event, math.inf
            )
    yield from waiting.values()
    for claimed in held.values():
        pid = pids.get(claimed.holder, 0)
        span = Span(claimed.at, math.inf)
        yield Holding(claimed.id, pid, claimed.attempt, claimed.crashes, span, "", math.inf)
