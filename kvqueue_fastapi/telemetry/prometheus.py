"""Metrics for Prometheus; needs the extra `prometheus`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request, Response

from kvqueue_fastapi.admin import KvQueueAdmin
from kvqueue_fastapi.depends import Injected, KvQueueDep, guards
from kvqueue_fastapi.errors import InvalidOptionError, shown
from kvqueue_fastapi.middleware import Middleware
from kvqueue_fastapi.model import Delivery
from kvqueue_fastapi.outgoing import CallSend, OutgoingMessage
from kvqueue_fastapi.telemetry.guard import Guard
from kvqueue_fastapi.telemetry.names import MAX_TYPES, TypeNames
from kvqueue_fastapi.telemetry.snapshots import Snapshots

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector

    from kvqueue_fastapi.telemetry.gauges import QueueGauges
except ImportError as error:
    msg = (
        "Metrics for Prometheus need prometheus_client, which is not installed. Run "
        "pip install 'kvqueue_fastapi[prometheus]'."
    )
    raise ImportError(msg, name=error.name) from error

BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    *(300, 900, 3_600, 14_400),
)
"""Upper limits, from a message that is handled at once to one that has waited for half a night."""
_TYPE: Final = ("type",)
_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"


class PrometheusMiddleware(Middleware):
    """Counts what this process sends and handles, and measures how long that takes.

        metrics = PrometheusMiddleware()
        queue_module = KvQueueModule("orders.db", consumers=[…], middleware=[metrics])
        app.include_router(metrics_router(metrics))

    By message type: `kvqueue_messages_sent_total`, `kvqueue_deliveries_total` (with its `outcome`,
    as in `Delivery`), `kvqueue_dead_letters_total`, `kvqueue_leases_lost_total`, and in seconds
    `kvqueue_message_wait_seconds` and `kvqueue_message_handling_seconds`. What waits is not
    this process's: see `metrics_router`. What a dead process left behind for the last time
    becomes a dead letter without a delivery: `kvqueue_messages{state="dead"}` has it.

    Args:
        registry: where the metrics are registered; it takes one middleware.
        max_types: how many message types that no handler here has taken are told apart; all
            further ones are called "other". Each process counts them for itself.

    Raises:
        InvalidOptionError: the registry has these metrics already, `max_types` is below 0, or
            PROMETHEUS_MULTIPROC_DIR is no directory to write in.
    """

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, max_types: int = MAX_TYPES
    ) -> None:
        self.registry = registry
        self.names = TypeNames(max_types)
        self._guard = Guard("PrometheusMiddleware")
        _check_directory()
        try:
            self._make_metrics(registry)
        except ValueError as error:
            msg = (
                f"The registry has such metrics already: {error}. Make one PrometheusMiddleware "
                "for a registry, or give each its own CollectorRegistry()."
            )
            raise InvalidOptionError(msg) from error

    def _make_metrics(self, registry: CollectorRegistry) -> None:
        self._sent = Counter(
            "kvqueue_messages_sent", "Messages that this process sent.", _TYPE, registry=registry
        )
        self._deliveries = Counter(
            "kvqueue_deliveries",
            "Deliveries that ended here: done, retry, later, released, dead or lost.",
            ("type", "outcome"),
            registry=registry,
        )
        self._dead = Counter(
            "kvqueue_dead_letters", "Messages that were given up here.", _TYPE, registry=registry
        )
        self._lost = Counter(
            "kvqueue_leases_lost",
            "Deliveries that ended after another process may have taken the message.",
            _TYPE,
            registry=registry,
        )
        self._wait = Histogram(
            "kvqueue_message_wait_seconds",
            "From when a message was due until its handler began.",
            _TYPE,
            registry=registry,
            buckets=BUCKETS_S,
        )
        self._handling = Histogram(
            "kvqueue_message_handling_seconds",
            "From when a handler began until it ended.",
            _TYPE,
            registry=registry,
            buckets=BUCKETS_S,
        )

    async def send(self, messages: Sequence[OutgoingMessage], call_next: CallSend) -> list[int]:
        """Count what was committed, and not what was only tried."""
        ids = await call_next(messages)
        if ids:
            # They are stored: a sender who got an error would send them again.
            with self._guard:
                for message in messages:
                    self._sent.labels(self.names.of(message.type)).inc()
        return ids

    def settled(self, delivery: Delivery) -> None:
        """Count a delivery, and how long it waited and took."""
        with self._guard:
            self._count(delivery)

    def _count(self, delivery: Delivery) -> None:
        has_handler = delivery.waited_s is not None
        name = self.names.of(delivery.type, is_handled=has_handler)
        self._deliveries.labels(name, delivery.outcome).inc()
        # With 0 as well: an increase is seen from there alone.
        self._dead.labels(name).inc(delivery.outcome == "dead")
        self._lost.labels(name).inc(delivery.outcome == "lost")
        if delivery.waited_s is not None:
            self._wait.labels(name).observe(delivery.waited_s)
        if delivery.took_s is not None:
            self._handling.labels(name).observe(delivery.took_s)


def metrics_router(
    metrics: PrometheusMiddleware, *, path: str = "/metrics", dependencies: Sequence[Any] = ()
) -> APIRouter:
    """Answer Prometheus: with what the middleware counted, and with what waits now.

    Beside all else in the middleware's registry it gives, by message type, `kvqueue_messages`
    (with its `state`), `kvqueue_oldest_message_age_seconds`, `kvqueue_type_paused` and
    `kvqueue_type_handled`; and `kvqueue_listeners`, `kvqueue_oldest_due_seconds` (for how long the
    oldest message has been due that could be handled) and `kvqueue_snapshot_age_seconds`. These are
    the queue's and the same from whatever process answers. They are read at most every 15 s,
    beside the queue's work, because that reads the whole table; where it takes longer than 5 s,
    those of the last time are given.

    With several processes behind one port, set PROMETHEUS_MULTIPROC_DIR to an empty directory
    before they start: whichever of them answers, the counters and histograms are those of all. What
    prometheus_client tells of a single process (`process_*`, `python_*`) is left out then.

    Args:
        metrics: the middleware, which the queue of the app that has the router has as well.
        path: where.
        dependencies: `[Depends(…)]`, which may refuse: the answer names message types.

    Raises:
        InvalidOptionError: a dependency is none.
    """
    router = APIRouter(dependencies=guards(dependencies))
    snapshots = Snapshots()

    async def answer(
        request: Request,
        queue: KvQueueDep,
        admin: Annotated[KvQueueAdmin, Injected(KvQueueAdmin)],
    ) -> Response:
        gauges = QueueGauges(await snapshots.fresh(queue, admin), metrics.names)
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        shown = _Together(_counted(metrics.registry), gauges)
        # In a thread: thousands of series take their time, and so do the files of many processes.
        return Response(await anyio.to_thread.run_sync(encode, shown), media_type=media_type)

    router.add_api_route(path, answer, methods=["GET"], include_in_schema=False)
    return router


def _counted(registry: CollectorRegistry) -> CollectorRegistry:
    if _DIRECTORY not in os.environ:
        return registry
    everybody = CollectorRegistry()
    MultiProcessCollector(everybody)  # type: ignore[no-untyped-call] # it has no types
    return everybody


def _check_directory() -> None:
    path = os.environ.get(_DIRECTORY)
    if path is not None and not (Path(path).is_dir() and os.access(path, os.W_OK | os.X_OK)):
        msg = (
            f"{_DIRECTORY} is {shown(path)}, which is no directory that this process may write "
            "in. Make it, empty, before the processes start, or unset the variable."
        )
        raise InvalidOptionError(msg)


class _Together:
    """What several collectors collect, as one that is encoded at once."""

    def __init__(self, *collectors: Any) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            found: Iterable[Metric] = collector.collect()
            yield from found
