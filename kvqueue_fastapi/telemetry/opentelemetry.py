"""Traces and metrics for OpenTelemetry; needs the extra `otel`."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from itertools import chain
from typing import Any, Final

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.errors import RetryLater
from kvqueue_fastapi.message import Message
from kvqueue_fastapi.middleware import CallHandler, Middleware
from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.outgoing import CallSend, OutgoingMessage
from kvqueue_fastapi.queue import KvQueue
from kvqueue_fastapi.telemetry import conventions as named
from kvqueue_fastapi.telemetry.guard import Guard
from kvqueue_fastapi.telemetry.names import MAX_TYPES, TypeNames
from kvqueue_fastapi.telemetry.snapshots import MAX_AGE_S, Snapshots

try:
    from opentelemetry import context as contexts
    from opentelemetry import metrics, trace

    from kvqueue_fastapi.telemetry.attempts import Attempts
    from kvqueue_fastapi.telemetry.instruments import Instruments, error_type
    from kvqueue_fastapi.telemetry.observations import QueueObservations
    from kvqueue_fastapi.telemetry.propagation import (
        carried,
        extracted,
        links_to,
        own_links,
        with_context,
    )
except ImportError as error:
    msg = (
        "Traces and metrics for OpenTelemetry need opentelemetry-api, which is not installed. Run "
        "pip install 'kvqueue_fastapi[otel]'."
    )
    raise ImportError(msg, name=error.name) from error

_SCOPE: Final = "kvqueue_fastapi"


class OpenTelemetryMiddleware(Middleware):
    """Traces each message from its send to each attempt, and counts and measures both.

        queue_module = KvQueueModule("orders.db", middleware=[OpenTelemetryMiddleware()])

    A send is a PRODUCER span `send order.created` below the span of its route. Its context
    travels in the message's headers (`traceparent`, and what else the global propagators carry,
    such as baggage; it is stored with the message). Each attempt is a CONSUMER span
    `process order.created`, child of the send span and linked to it: the messaging conventions
    ask for the link, and let the parent be the send where a span handles one message, so that
    route, wait and all attempts are one trace. Messages of one commit share its send span.

    An attempt's span says how it was written down (`kvqueue.delivery.outcome`, as in `Delivery`),
    and has the exception. Where nothing is recorded, no header is added; a trace that is not
    sampled says so in its header, so that the attempts are not sampled either. Headers that would
    become too large are left as they were.

    Metrics: `messaging.client.sent.messages`, `messaging.client.consumed.messages`,
    `messaging.client.operation.duration`, `messaging.process.duration` and
    `kvqueue.message.wait.duration`; for what waits see `queue_gauges`.

    Args:
        tracer_provider: None: the global one.
        meter_provider: None: the global one.
        max_types: how many message types that no handler has taken the metrics tell apart; all
            further ones are called "other".
        record_exceptions: False: spans have the class of an error only. What `redact` hides is
            not hidden in the text of an exception.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        max_types: int = MAX_TYPES,
        record_exceptions: bool = True,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._instruments = Instruments(meter, TypeNames(max_types))
        self._attempts = Attempts()
        self._record_exceptions = record_exceptions
        self._guard = Guard("OpenTelemetryMiddleware")

    async def send(self, messages: Sequence[OutgoingMessage], call_next: CallSend) -> list[int]:
        """Be a span, and have its context travel with the messages."""
        own: list[list[trace.Link]] = []
        span: trace.Span = trace.INVALID_SPAN
        with self._guard:
            types = {message.type for message in messages}
            own = [own_links(message) for message in messages]
            span = self._tracer.start_span(
                _name(named.SEND, types),
                kind=trace.SpanKind.PRODUCER,
                attributes=_sending(messages, types),
                links=list(chain.from_iterable(own)),
            )
        began = time.perf_counter()
        try:
            with _within(span):
                traced = messages
                with self._guard:
                    traced = _traced(messages, own, span)
                ids = await call_next(traced)
        except BaseException as error:
            with self._guard:
                self._fail(span, error)
                self._instruments.sent(messages, time.perf_counter() - began, error)
            raise
        else:
            with self._guard:
                if len(ids) == 1:
                    span.set_attribute(named.MESSAGE_ID, str(ids[0]))
                # None where a check failed: those were never on their way.
                self._instruments.sent(messages[: len(ids)], time.perf_counter() - began)
            return ids
        finally:
            with self._guard:
                span.end()

    async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
        """Be a span of the trace that the message was sent in."""
        sent_in: contexts.Context | None = None
        span: trace.Span = trace.INVALID_SPAN
        with self._guard:
            sent_in = extracted(message.headers)
            span = self._tracer.start_span(
                f"{named.PROCESS} {message.type}",
                context=sent_in,
                kind=trace.SpanKind.CONSUMER,
                attributes=_processing(message),
                links=links_to(sent_in),
            )
        # With the baggage of the sender, for whatever the handler calls and sends.
        within = contexts.Context() if sent_in is None else sent_in
        if span is not trace.INVALID_SPAN:
            within = trace.set_span_in_context(span, within)
        token = contexts.attach(within)
        try:
            await call_next(message)
        except BaseException as error:
            # That it is to come again later, or that we stop, is no failure.
            if not isinstance(error, RetryLater | asyncio.CancelledError):
                with self._guard:
                    self._fail(span, error)
            raise
        finally:
            contexts.detach(token)
            with self._guard:
                self._attempts.keep(message.id, message.attempt, span, time.time_ns())

    def settled(self, delivery: Delivery) -> None:
        """End the attempt's span with its outcome; count and measure."""
        with self._guard:
            self._attempts.settled(delivery)
        with self._guard:
            self._instruments.settled(delivery)

    def _fail(self, span: trace.Span, error: BaseException) -> None:
        if self._record_exceptions:
            span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR)
        span.set_attribute(named.ERROR_TYPE, error_type(error))


def _within(span: trace.Span) -> AbstractContextManager[object]:
    if span is trace.INVALID_SPAN:  # it could not be begun: whatever is around it stays
        return nullcontext()
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


def _name(operation: str, types: Iterable[str]) -> str:
    only, *others = types
    return operation if others else f"{operation} {only}"


def _sending(messages: Sequence[OutgoingMessage], types: set[str]) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        named.SYSTEM: named.KVQUEUE,
        named.OPERATION_NAME: named.SEND,
        named.OPERATION_TYPE: named.SEND,
    }
    if len(types) == 1:
        attributes[named.DESTINATION] = messages[0].type
    if len(messages) > 1:
        attributes[named.BATCH_COUNT] = len(messages)
    return attributes


def _processing(message: Message[Any]) -> dict[str, str | int]:
    return {
        named.SYSTEM: named.KVQUEUE,
        named.OPERATION_NAME: named.PROCESS,
        named.OPERATION_TYPE: named.PROCESS,
        named.DESTINATION: message.type,
        named.MESSAGE_ID: str(message.id),
        named.ATTEMPT: message.attempt,
    }


def _traced(
    messages: Sequence[OutgoingMessage], own: Sequence[Sequence[trace.Link]], span: trace.Span
) -> Sequence[OutgoingMessage]:
    carrier = carried(contexts.get_current())
    if not carrier:
        return messages
    traced = [
        message if its_own else with_context(message, carrier)
        for message, its_own in zip(messages, own, strict=True)
    ]
    kept = sum(new is old for new, old in zip(traced, messages, strict=True))
    if left_out := kept - sum(map(bool, own)):
        span.add_event(named.CONTEXT_LEFT_OUT, {named.BATCH_COUNT: left_out})
    return traced


@asynccontextmanager
async def queue_gauges(
    queue: KvQueue,
    admin: KvQueueAdmin,
    *,
    meter_provider: metrics.MeterProvider | None = None,
    every_s: float = MAX_AGE_S,
    max_types: int = MAX_TYPES,
) -> AsyncGenerator[None]:
    """Observe what waits, runs and is dead, for as long as the block lasts.

    For the app's own lifespan, in one process: these gauges are the queue's, not a process's.

        async with queue_gauges(injector.get(KvQueue), injector.get(KvQueueAdmin)):
            yield

    They are `kvqueue.messages` by `kvqueue.message.state`, `kvqueue.message.oldest_age`,
    `kvqueue.message.oldest_due` (of those that could be handled) and `kvqueue.listeners`.

    Args:
        queue: what is observed.
        admin: of the same queue.
        meter_provider: None: the global one.
        every_s: how often to look; that reads the whole table, beside the queue's work.
        max_types: as for the middleware.
    """
    snapshots = Snapshots(max_age_s=0)
    meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
    QueueObservations(snapshots, TypeNames(max_types)).attach(meter)

    async def look() -> None:
        while True:
            await snapshots.fresh(queue, admin)
            await asyncio.sleep(every_s)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        # Nothing is told of a queue that nobody looks at any more.
        snapshots.last = None
        with suppress(asyncio.CancelledError):
            await looking
