"""What waits, as observable gauges of OpenTelemetry's meter."""

from collections.abc import Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from kvqueue_fastapi.keeper import State
from kvqueue_fastapi.telemetry import conventions as named
from kvqueue_fastapi.telemetry.names import TypeNames
from kvqueue_fastapi.telemetry.snapshots import Snapshots


class QueueObservations:
    """Shows the last snapshot of a queue, for as long as there is one.

    The meter's reader asks in a thread of its own, so that nothing is read from the queue for it.
    """

    def __init__(self, snapshots: Snapshots, names: TypeNames) -> None:
        self._snapshots = snapshots
        self._names = names

    def attach(self, meter: Meter) -> None:
        """Have a meter ask for them."""
        meter.create_observable_gauge(
            named.MESSAGES, [self._messages], "{message}", "Messages that wait, run or are dead."
        )
        meter.create_observable_gauge(
            named.OLDEST_AGE, [self._oldest], "s", "Since the oldest that is not dead was sent."
        )
        meter.create_observable_gauge(
            named.OLDEST_DUE, [self._due], "s", "Since when one is due that could be handled."
        )
        meter.create_observable_gauge(
            named.LISTENERS, [self._listeners], "{process}", "Processes that listen."
        )

    def _messages(self, _options: CallbackOptions) -> Iterator[Observation]:
        if snapshot := self._snapshots.last:
            for name, several in snapshot.by_name(self._names).items():
                for state in State:
                    count = sum(getattr(one, state.value) for one in several)
                    yield Observation(count, {**_of(name), named.STATE: state.value})

    def _oldest(self, _options: CallbackOptions) -> Iterator[Observation]:
        if snapshot := self._snapshots.last:
            for name, several in snapshot.by_name(self._names).items():
                yield Observation(max(one.oldest_age_s or 0.0 for one in several), _of(name))

    def _due(self, _options: CallbackOptions) -> Iterator[Observation]:
        if snapshot := self._snapshots.last:
            yield Observation(snapshot.due_s, {named.SYSTEM: named.KVQUEUE})

    def _listeners(self, _options: CallbackOptions) -> Iterator[Observation]:
        if snapshot := self._snapshots.last:
            yield Observation(snapshot.listeners, {named.SYSTEM: named.KVQUEUE})


def _of(name: str) -> dict[str, str]:
    return {named.SYSTEM: named.KVQUEUE, named.DESTINATION: name}
