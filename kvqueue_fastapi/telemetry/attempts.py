"""Spans of attempts: they end with the handler, and are told later how that was written down."""

import threading
from typing import Final

from opentelemetry.trace import Span, StatusCode

from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.telemetry import conventions as named
from kvqueue_fastapi.telemetry.instruments import FAILURES, LEASE_LOST, error_type

MOST_KEPT: Final = 20_000
"""Spans that wait for their outcome; a process runs at most 10,000 handlers at once."""


class Attempts:
    """Keeps the span of an attempt from the end of its handler until its delivery is settled.

    What became of an attempt is known when the store has taken it: again, later, dead, lost. A
    shutdown during which the store takes nothing leaves spans without that; they end as well.
    """

    def __init__(self) -> None:
        self._ended: dict[tuple[int, int], tuple[Span, int]] = {}
        self._lock = threading.Lock()

    def keep(self, message_id: int, attempt: int, span: Span, ended_ns: int) -> None:
        """Keep a span of which the handler has ended.

        Args:
            message_id: with the attempt it leads from the delivery to the span.
            attempt: which.
            span: is ended later, with this time.
            ended_ns: UTC nanoseconds.
        """
        if not span.is_recording():
            span.end(ended_ns)
            return
        with self._lock:
            crowded_out = [self._ended.pop((message_id, attempt), None)]
            if len(self._ended) >= MOST_KEPT:
                crowded_out.append(self._ended.pop(next(iter(self._ended))))
            self._ended[message_id, attempt] = span, ended_ns
        for kept in filter(None, crowded_out):
            kept[0].end(kept[1])

    def settled(self, delivery: Delivery) -> None:
        """End the span of a delivery, and say in it how that ended."""
        with self._lock:
            kept = self._ended.pop((delivery.id, delivery.attempt), None)
        if kept is None:
            return
        span, ended_ns = kept
        span.set_attribute(named.OUTCOME, delivery.outcome)
        if delivery.waited_s is not None:
            span.set_attribute(named.WAITED_S, delivery.waited_s)
        if delivery.outcome in FAILURES:
            span.set_status(StatusCode.ERROR)
            error = delivery.error
            span.set_attribute(named.ERROR_TYPE, error_type(error) if error else LEASE_LOST)
        span.end(ended_ns)
