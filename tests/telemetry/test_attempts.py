from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from kvqueue_fastapi import Delivery
from kvqueue_fastapi.telemetry import attempts, conventions
from kvqueue_fastapi.telemetry.attempts import Attempts

ENDED_NS = 2_000_000_000


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("test")
    provider.shutdown()


def test_a_span_ends_when_its_handler_did_and_not_when_that_was_written_down(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    kept = Attempts()
    kept.keep(1, 1, tracer.start_span("process", start_time=1), ENDED_NS)

    before = exporter.get_finished_spans()
    kept.settled(Delivery(1, "order", 1, "done"))

    assert before == ()
    (span,) = exporter.get_finished_spans()
    assert span.end_time == ENDED_NS
    assert span.attributes == {conventions.OUTCOME: "done"}


def test_a_lost_lease_is_an_error_although_the_handler_made_none(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    kept = Attempts()
    kept.keep(1, 1, tracer.start_span("process"), ENDED_NS)

    kept.settled(Delivery(1, "order", 1, "lost"))

    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert (span.attributes or {})[conventions.ERROR_TYPE] == "lease_lost"


def test_spans_that_nobody_settles_are_no_more_than_a_process_can_hold(
    tracer: Tracer, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "MOST_KEPT", 3)
    kept = Attempts()

    for message_id in range(5):
        kept.keep(message_id, 1, tracer.start_span(str(message_id)), ENDED_NS)

    assert [span.name for span in exporter.get_finished_spans()] == ["0", "1"]


def test_an_attempt_that_comes_again_under_its_number_ends_the_one_before(
    tracer: Tracer, exporter: InMemorySpanExporter
) -> None:
    kept = Attempts()
    kept.keep(1, 1, tracer.start_span("before"), ENDED_NS)
    kept.keep(1, 1, tracer.start_span("after"), ENDED_NS)

    kept.settled(Delivery(1, "order", 1, "done"))

    assert [span.name for span in exporter.get_finished_spans()] == ["before", "after"]
