import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from injector import Injector
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagate import inject
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import messaging_attributes as attributes
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kvqueue_fastapi import (
    IdempotencyConflictError,
    KvQueueAdmin,
    KvQueueDep,
    Message,
    on_queue_message,
)
from kvqueue_fastapi.codec import MAX_HEADERS_BYTES
from kvqueue_fastapi.telemetry import conventions as named
from kvqueue_fastapi.telemetry.opentelemetry import OpenTelemetryMiddleware, queue_gauges
from kvqueue_fastapi.testing import drain
from tests.telemetry.shop import TRIES, module, running


class Recorded:
    """What a real SDK has recorded."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(**options)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.middleware = OpenTelemetryMiddleware(self.tracers, self.meters)
        self.tracer = self.tracers.get_tracer("test")

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def ancestors(self, span: ReadableSpan) -> list[int]:
        above = {id_of(one): parent_id(one) for one in self.spans}
        found = [parent_id(span)]
        while found[-1] is not None:
            found.append(above.get(found[-1]))
        return [one for one in found if one is not None]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    yield recorded
    recorded.meters.shutdown()


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def test_one_trace_spans_route_send_wait_and_each_attempt(url: str, recorded: Recorded) -> None:
    providers: Any = {"tracer_provider": recorded.tracers, "meter_provider": recorded.meters}
    app = FastAPI(telemetry=providers)
    shop = module(url, recorded.middleware)
    shop.install(app, Injector([shop]))

    @app.post("/orders")
    async def order(queue: KvQueueDep) -> int:
        return await queue.send_message("order.failing", 1)

    with TestClient(app) as client:
        message_id = client.post("/orders").json()
        drain(client)

    (route,) = (span for span in recorded.spans if span.kind is SpanKind.SERVER)
    send, *attempts = (span for span in recorded.spans if span.name.endswith("order.failing"))
    assert [span.name for span in (route, send)] == ["POST /orders", "send order.failing"]
    assert [span.name for span in attempts] == ["process order.failing"] * TRIES
    assert {span.get_span_context().trace_id for span in (send, *attempts)} == {
        route.get_span_context().trace_id
    }
    assert id_of(route) in recorded.ancestors(send)
    assert [parent_id(span) for span in attempts] == [id_of(send)] * TRIES
    assert [link.context.span_id for span in attempts for link in span.links] == [
        id_of(send)
    ] * TRIES
    assert (send.kind, attempts[0].kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert send.attributes == {
        attributes.MESSAGING_SYSTEM: "kvqueue",
        attributes.MESSAGING_OPERATION_NAME: "send",
        attributes.MESSAGING_OPERATION_TYPE: "send",
        attributes.MESSAGING_DESTINATION_NAME: "order.failing",
        attributes.MESSAGING_MESSAGE_ID: str(message_id),
    }
    assert [(span.attributes or {})[named.ATTEMPT] for span in attempts] == [1, 2]
    assert [(span.attributes or {})[named.OUTCOME] for span in attempts] == ["retry", "dead"]
    assert (send.end_time or 0) <= (attempts[0].start_time or 0)


async def test_an_attempt_tells_its_error_and_a_wish_for_later_is_none(
    url: str, recorded: Recorded
) -> None:
    async with running(url, recorded.middleware) as queue:
        for kind in ("order.created", "order.wrong", "order.early", "order.failing"):
            await queue.send_message(kind, 1)
        await queue.run_until_idle()

    told = {
        span.name: (
            span.status.status_code,
            (span.attributes or {}).get(named.OUTCOME),
            (span.attributes or {}).get(named.ERROR_TYPE),
            [event.name for event in span.events],
        )
        for span in recorded.spans
        if span.kind is SpanKind.CONSUMER
    }
    failed = StatusCode.ERROR
    reject = "kvqueue_fastapi.errors.Reject"
    assert told == {
        "process order.created": (StatusCode.UNSET, "done", None, []),
        "process order.wrong": (failed, "dead", reject, ["exception"]),
        "process order.early": (StatusCode.UNSET, "later", None, []),
        "process order.failing": (failed, "dead", "ValueError", ["exception"]),
    }


async def test_what_a_handler_sends_is_below_its_attempt(url: str, recorded: Recorded) -> None:
    @on_queue_message("first")
    async def first(_: int, queue: Message) -> None:
        await queue.atomic().enqueue({"type": "second", "data": 1}).commit()

    @on_queue_message("second")
    async def second(_: int) -> None:
        pass

    async with running(url, recorded.middleware, handlers=[first, second]) as queue:
        await queue.send_message("first", 1)
        await queue.run_until_idle()

    above, below = recorded.named("process first")[0], recorded.named("send second")[0]
    assert parent_id(below) == id_of(above)
    assert parent_id(recorded.named("process second")[0]) == id_of(below)


async def test_messages_of_one_commit_share_a_send_that_counts_them(
    url: str, recorded: Recorded
) -> None:
    async with running(url, recorded.middleware) as queue:
        await queue.send_messages([("order.created", 1), ("order.created", 2)])
        await queue.send_messages([("order.created", 3), ("order.flaky", 4)])
        await queue.run_until_idle()

    batch, mixed = (span for span in recorded.spans if span.kind is SpanKind.PRODUCER)
    assert (batch.name, mixed.name) == ("send order.created", "send")
    assert (batch.attributes or {})[attributes.MESSAGING_BATCH_MESSAGE_COUNT] == 2
    assert attributes.MESSAGING_DESTINATION_NAME not in (mixed.attributes or {})
    assert attributes.MESSAGING_MESSAGE_ID not in (mixed.attributes or {})
    assert [parent_id(span) for span in recorded.named("process order.created")] == [
        id_of(batch),
        id_of(batch),
        id_of(mixed),
    ]


async def test_the_context_of_the_sender_stays_and_is_linked(url: str, recorded: Recorded) -> None:
    with recorded.tracer.start_as_current_span("elsewhere") as elsewhere:
        headers: dict[str, str] = {}
        inject(headers)

    async with running(url, recorded.middleware) as queue:
        await queue.send_message("order.created", 1, headers=headers)
        await queue.run_until_idle()

    send, attempt = recorded.named("send order.created")[0], recorded.named("process order.created")
    its_id = elsewhere.get_span_context().span_id
    assert [link.context.span_id for link in send.links] == [its_id]
    assert parent_id(attempt[0]) == its_id


async def test_a_context_that_nobody_can_read_is_replaced(url: str, recorded: Recorded) -> None:
    headers = {"traceparent": "00-zz", "tracestate": "a=b", "tenant": "north"}
    seen: list[dict[str, str]] = []

    @on_queue_message("traced")
    async def handle(_: int, message: Message) -> None:
        seen.append(dict(message.headers))

    async with running(url, recorded.middleware, handlers=[handle]) as queue:
        await queue.send_message("traced", 1, headers=headers)
        await queue.run_until_idle()

    (send,) = recorded.named("send traced")
    assert parent_id(recorded.named("process traced")[0]) == id_of(send)
    assert (seen[0]["tenant"], "tracestate" in seen[0]) == ("north", False)


async def test_headers_near_their_limit_are_sent_without_the_context(
    url: str, recorded: Recorded
) -> None:
    full = {"text": "x" * (MAX_HEADERS_BYTES - 4)}
    seen: list[dict[str, str]] = []

    @on_queue_message("large")
    async def handle(_: int, message: Message) -> None:
        seen.append(dict(message.headers))

    async with running(url, recorded.middleware, handlers=[handle]) as queue:
        await queue.send_message("large", 1, headers=full)
        await queue.run_until_idle()

    (send,) = recorded.named("send large")
    assert seen == [full]
    assert [event.name for event in send.events] == [named.CONTEXT_LEFT_OUT]
    assert parent_id(recorded.named("process large")[0]) is None


async def test_baggage_is_left_out_before_the_trace_is(url: str, recorded: Recorded) -> None:
    async with running(url, recorded.middleware) as queue:
        token = context.attach(baggage.set_baggage("much", "x" * 4_000))
        try:
            headers = {"text": "x" * (MAX_HEADERS_BYTES - 200)}
            await queue.send_message("order.created", 1, headers=headers)
        finally:
            context.detach(token)
        await queue.run_until_idle()

    (send,) = recorded.named("send order.created")
    assert parent_id(recorded.named("process order.created")[0]) == id_of(send)


async def test_baggage_of_the_sender_reaches_the_handler(url: str, recorded: Recorded) -> None:
    seen: list[object] = []

    @on_queue_message("tenant")
    async def handle(_: int) -> None:
        seen.append(baggage.get_baggage("tenant"))

    async with running(url, recorded.middleware, handlers=[handle]) as queue:
        token = context.attach(baggage.set_baggage("tenant", "ada"))
        await queue.send_message("tenant", 1)
        context.detach(token)
        await queue.run_until_idle()

    assert seen == ["ada"]


async def test_without_an_sdk_no_header_is_added(url: str) -> None:
    seen: list[dict[str, str]] = []

    @on_queue_message("plain")
    async def handle(_: int, message: Message) -> None:
        seen.append(dict(message.headers))

    nothing = OpenTelemetryMiddleware(trace.NoOpTracerProvider())
    async with running(url, nothing, handlers=[handle]) as queue:
        await queue.send_message("plain", 1)
        await queue.run_until_idle()

    assert seen == [{}]


async def test_what_is_not_sampled_at_the_send_is_not_sampled_at_the_attempts(url: str) -> None:
    unsampled, recorded = Recorded(sampler=ALWAYS_OFF), Recorded()
    async with running(url, unsampled.middleware) as queue:
        await queue.send_message("order.created", 1)

    async with running(url, recorded.middleware) as queue:
        handled = await queue.run_until_idle()

    assert handled == 1
    assert recorded.spans == []


async def test_a_send_that_fails_is_an_error_with_its_class(url: str, recorded: Recorded) -> None:
    async with running(url, recorded.middleware) as queue:
        await queue.send_message("order.created", 1, idempotency_key="a")
        with pytest.raises(IdempotencyConflictError):
            await queue.send_message("order.created", 2, idempotency_key="a")

    kind = "kvqueue_fastapi.errors.IdempotencyConflictError"
    _, failed = recorded.spans
    assert failed.status.status_code is StatusCode.ERROR
    assert (failed.attributes or {})[error_attributes.ERROR_TYPE] == kind
    sent = {
        (point.attributes or {}).get(named.ERROR_TYPE): point.value
        for point in recorded.points(messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES)
    }
    assert sent == {None: 1, kind: 1}


async def test_a_send_span_that_cannot_begin_leaves_the_trace_around_it(
    url: str, recorded: Recorded
) -> None:
    shop = module(url, recorded.middleware)
    async with shop.running(Injector([shop])) as queue:
        recorded.tracers.add_span_processor(starts := Broken(""))
        with recorded.tracer.start_as_current_span("route"):
            starts.when = "start"
            await queue.send_message("order.created", 1)
            starts.when = ""
        await queue.run_until_idle()

    (route,), (attempt,) = recorded.named("route"), recorded.named("process order.created")
    assert parent_id(attempt) == id_of(route)


class Broken(SpanProcessor):
    """Fails at the begin or at the end of each span."""

    def __init__(self, when: str) -> None:
        self.when = when

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._fail("start")

    def on_end(self, span: ReadableSpan) -> None:
        self._fail("end")

    def _fail(self, when: str) -> None:
        if when == self.when:
            raise OSError(f"no {when}")


class BrokenPropagator(TraceContextTextMapPropagator):
    """Can neither read nor write a context."""

    def extract(self, *_: Any, **__: Any) -> Context:
        raise OSError("no context")

    def inject(self, *_: Any, **__: Any) -> None:
        raise OSError("no context")


@pytest.mark.parametrize("where", ["start", "end", "context"])
async def test_telemetry_that_fails_keeps_nothing_from_being_sent_and_handled(
    url: str,
    recorded: Recorded,
    where: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded.tracers.add_span_processor(Broken(where))
    if where == "context":
        monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", BrokenPropagator())
    async with running(url, recorded.middleware) as queue:
        first = await queue.send_message("order.created", 1, headers={"traceparent": "x"})
        second = await queue.send_message("order.created", 2)

        assert await queue.run_until_idle() == 2

    assert second > first
    assert caplog.text.count("OpenTelemetryMiddleware failed") == 1
    assert f"no {where}" in caplog.text
    (consumed,) = recorded.points(messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)
    assert consumed.value == 2


async def test_texts_of_errors_can_be_kept_out_of_spans(url: str, recorded: Recorded) -> None:
    shy = OpenTelemetryMiddleware(recorded.tracers, recorded.meters, record_exceptions=False)
    async with running(url, shy) as queue:
        await queue.send_message("order.wrong", 1)
        await queue.run_until_idle()

    (attempt,) = recorded.named("process order.wrong")
    assert attempt.events == ()
    assert attempt.status.description is None
    assert "no such order" not in attempt.to_json()


async def test_metrics_count_and_measure_by_the_conventions(url: str, recorded: Recorded) -> None:
    async with running(url, recorded.middleware) as queue:
        await queue.send_message("order.created", 1)
        await queue.send_message("order.failing", 1)
        await queue.run_until_idle()

    consumed = {
        (
            point.attributes[attributes.MESSAGING_DESTINATION_NAME],
            point.attributes[named.OUTCOME],
            point.attributes.get(error_attributes.ERROR_TYPE),
        ): point.value
        for point in recorded.points(messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES)
    }
    assert consumed == {
        ("order.created", "done", None): 1,
        ("order.failing", "retry", "ValueError"): TRIES - 1,
        ("order.failing", "dead", "ValueError"): 1,
    }
    for name, count in (
        (messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION, 2),
        (messaging_metrics.MESSAGING_PROCESS_DURATION, 1 + TRIES),
        (named.WAIT_DURATION, 1 + TRIES),
    ):
        assert sum(point.count for point in recorded.points(name)) == count


async def test_gauges_show_what_waits_while_their_block_lasts(url: str, recorded: Recorded) -> None:
    shop = module(url)
    injector = Injector([shop])
    async with shop.running(injector) as queue:
        await queue.send_message("order.created", 1)
        admin = injector.get(KvQueueAdmin)
        async with queue_gauges(queue, admin, meter_provider=recorded.meters):
            while not (points := recorded.points(named.MESSAGES)):
                await asyncio.sleep(0.01)
            oldest = recorded.points(named.OLDEST_AGE) + recorded.points(named.OLDEST_DUE)
            listening = recorded.points(named.LISTENERS)

    ready = [point.value for point in points if point.attributes[named.STATE] == "ready"]
    assert ready == [1]
    assert [point.value < 60 for point in oldest] == [True, True]
    assert [point.value for point in listening] == [0]
    assert recorded.points(named.MESSAGES) == []


def test_the_names_are_those_of_the_conventions() -> None:
    operations = attributes.MessagingOperationTypeValues

    assert [
        (
            attributes.MESSAGING_SYSTEM,
            attributes.MESSAGING_OPERATION_NAME,
            attributes.MESSAGING_OPERATION_TYPE,
        ),
        (
            attributes.MESSAGING_DESTINATION_NAME,
            attributes.MESSAGING_MESSAGE_ID,
            attributes.MESSAGING_BATCH_MESSAGE_COUNT,
        ),
        (
            messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES,
            messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES,
        ),
        (
            messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION,
            messaging_metrics.MESSAGING_PROCESS_DURATION,
        ),
        (error_attributes.ERROR_TYPE, operations.SEND.value, operations.PROCESS.value),
    ] == [
        (named.SYSTEM, named.OPERATION_NAME, named.OPERATION_TYPE),
        (named.DESTINATION, named.MESSAGE_ID, named.BATCH_COUNT),
        (named.SENT_MESSAGES, named.CONSUMED_MESSAGES),
        (named.OPERATION_DURATION, named.PROCESS_DURATION),
        (named.ERROR_TYPE, named.SEND, named.PROCESS),
    ]
