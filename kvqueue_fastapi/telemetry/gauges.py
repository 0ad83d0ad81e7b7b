"""What waits, as gauges for Prometheus."""

import math
from collections.abc import Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.telemetry.names import TypeNames
from kvqueue_fastapi.telemetry.snapshots import Snapshot

_STATES: Final = tuple(state.value for state in State)


class QueueGauges:
    """Gives a snapshot of a queue as metrics.

    They are made anew for each answer, and kept nowhere: a type that is gone leaves no gauge
    that nobody sets any more, and neither does a process.

    Args:
        snapshot: None: nothing could be read so far; then only its age is shown, without end.
        names: the types that are told apart; the others are taken together.
    """

    def __init__(self, snapshot: Snapshot | None, names: TypeNames) -> None:
        self._snapshot = snapshot
        self._named = snapshot.by_name(names) if snapshot else {}

    def collect(self) -> Iterator[Metric]:
        """Give the metrics."""
        yield GaugeMetricFamily(
            "kvqueue_snapshot_age_seconds",
            "How old what is said here of waiting messages is; +Inf: nothing could be read so far.",
            math.inf if self._snapshot is None else self._snapshot.age_s,
        )
        if self._snapshot is None:
            return
        yield self._messages()
        yield self._oldest()
        yield self._paused()
        yield self._handled()
        yield GaugeMetricFamily(
            "kvqueue_listeners", "Processes that listen.", self._snapshot.listeners
        )
        yield GaugeMetricFamily(
            "kvqueue_oldest_due_seconds",
            "How long the oldest message has been due that could be handled; 0: there is none.",
            self._snapshot.due_s,
        )

    def _messages(self) -> Metric:
        family = GaugeMetricFamily(
            "kvqueue_messages", "Messages that wait, run or are dead.", labels=("type", "state")
        )
        for name, several in self._named.items():
            for state in _STATES:
                family.add_metric((name, state), sum(getattr(one, state) for one in several))
        return family

    def _oldest(self) -> Metric:
        family = GaugeMetricFamily(
            "kvqueue_oldest_message_age_seconds",
            "Since the oldest message that is not dead was sent; 0: there is none.",
            labels=("type",),
        )
        for name, several in self._named.items():
            family.add_metric((name,), max(one.oldest_age_s or 0.0 for one in several))
        return family

    def _paused(self) -> Metric:
        family = GaugeMetricFamily(
            "kvqueue_type_paused", "1: somebody has paused the type.", labels=("type",)
        )
        for name, several in self._named.items():
            family.add_metric((name,), any(one.paused for one in several))
        return family

    def _handled(self) -> Metric:
        family = GaugeMetricFamily(
            "kvqueue_type_handled", "1: a process listens that takes the type.", labels=("type",)
        )
        for name, several in self._named.items():
            family.add_metric((name,), all(one.handled for one in several))
        return family
