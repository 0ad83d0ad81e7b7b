"""What OpenTelemetry's meter counts and measures of messages."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from opentelemetry.metrics import Meter

from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.outgoing import OutgoingMessage
from kvqueue_fastapi.telemetry import conventions as named
from kvqueue_fastapi.telemetry.names import TypeNames

_SENDING: Final = {
    named.SYSTEM: named.KVQUEUE,
    named.OPERATION_NAME: named.SEND,
    named.OPERATION_TYPE: named.SEND,
}
_PROCESSING: Final = {
    named.SYSTEM: named.KVQUEUE,
    named.OPERATION_NAME: named.PROCESS,
    named.OPERATION_TYPE: named.PROCESS,
}
FAILURES: Final = frozenset({"retry", "dead", "lost"})
"""Outcomes of deliveries that are errors; the others are what somebody asked for."""
LEASE_LOST: Final = "lease_lost"
"""The `error.type` where the handler itself succeeded."""


class Instruments:
    """Counters and histograms by the messaging conventions, and one of our own.

    Args:
        meter: makes them.
        names: the message types that are told apart.
    """

    def __init__(self, meter: Meter, names: TypeNames) -> None:
        self._names = names
        self._sent = meter.create_counter(
            named.SENT_MESSAGES, "{message}", "Messages that were to be sent."
        )
        self._consumed = meter.create_counter(
            named.CONSUMED_MESSAGES, "{message}", "Deliveries that have ended."
        )
        self._sending = meter.create_histogram(
            named.OPERATION_DURATION,
            "s",
            "From a send until it is on disk.",
            explicit_bucket_boundaries_advisory=named.DURATION_BUCKETS_S,
        )
        self._processing = meter.create_histogram(
            named.PROCESS_DURATION,
            "s",
            "From when a handler began until it ended.",
            explicit_bucket_boundaries_advisory=named.DURATION_BUCKETS_S,
        )
        self._waiting = meter.create_histogram(
            named.WAIT_DURATION,
            "s",
            "From when a message was due until its handler began.",
            explicit_bucket_boundaries_advisory=named.WAIT_BUCKETS_S,
        )

    def sent(
        self,
        messages: Iterable[OutgoingMessage],
        took_s: float,
        error: BaseException | None = None,
    ) -> None:
        """Count messages of one commit, and measure how long that took."""
        attributes = {**_SENDING, **_of_error(error)}
        counted = Counter(self._names.of(message.type) for message in messages)
        for name, count in counted.items():
            self._sent.add(count, {**attributes, named.DESTINATION: name})
        if len(counted) == 1:
            attributes[named.DESTINATION] = next(iter(counted))
        self._sending.record(took_s, attributes)

    def settled(self, delivery: Delivery) -> None:
        """Count a delivery, and how long it waited and took."""
        name = self._names.of(delivery.type, is_handled=delivery.waited_s is not None)
        attributes = {**_PROCESSING, named.DESTINATION: name, named.OUTCOME: delivery.outcome}
        if delivery.outcome in FAILURES:
            attributes |= _of_error(delivery.error) or {named.ERROR_TYPE: LEASE_LOST}
        self._consumed.add(1, attributes)
        if delivery.took_s is not None:
            self._processing.record(delivery.took_s, attributes)
        if delivery.waited_s is not None:
            waiting = {named.SYSTEM: named.KVQUEUE, named.DESTINATION: name}
            self._waiting.record(delivery.waited_s, waiting)


def error_type(error: BaseException) -> str:
    """What `error.type` says of an error: its class."""
    kind = type(error)
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _of_error(error: BaseException | None) -> dict[str, str]:
    return {} if error is None else {named.ERROR_TYPE: error_type(error)}
