"""Measures of a peer whose API is synchronous: producers are threads of one process."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

from tests.benchmarks.peers.handled import Handled
from tests.benchmarks.peers.sizes import LEAST_S, WAIT_S, Sizes
from tests.benchmarks.rows import WARM_UP, Figures, Row, percentiles


class Peer(Protocol):
    def send(self) -> object:
        """Send one message as its documents say."""

    def fill(self, count: int) -> None:
        """Put so many there, the quickest way; not measured."""

    def handling(self) -> AbstractContextManager[object]:
        """Handle messages meanwhile; the handler calls `Handled` and does nothing else."""


Opened = Callable[[Path, Handled], AbstractContextManager[Peer]]
"""Opens a peer in an empty directory; a function of a module, so that it can be pickled."""


def rows(
    who: str, durability: str, opened: Opened, missing: Callable[[], str | None], sizes: Sizes
) -> list[Row]:
    """The peer's rows, one of each kind of work."""
    return sizes.rows(
        lambda work, name, measure: Row(work, name, who, durability, measure, missing),
        send=lambda count, producers: partial(_send_rate, opened, count, producers),
        handle=lambda *of: partial(_handle_rate, opened, *of),
        latency=lambda count, gap_s: partial(_latency, opened, count, gap_s),
    )


def _send_rate(
    opened: Opened, count: int, producers: int, directory: Path, divisor: int
) -> Figures:
    each = max(count // divisor // producers, 1)

    def produce(peer: Peer, count: int = each) -> None:
        for _ in range(count):
            peer.send()

    warm_up = max(each // WARM_UP, 1)

    with opened(directory, Handled(threading.Event())) as peer:
        if producers == 1:
            produce(peer, warm_up)
            began = time.perf_counter()
            produce(peer)
            return {"per_s": each / (time.perf_counter() - began)}
        with ThreadPoolExecutor(producers) as pool:
            # a barrier, so that all threads are there before the time runs
            barrier = threading.Barrier(producers)
            list(pool.map(lambda _: barrier.wait(), range(producers)))
            list(pool.map(lambda _: produce(peer, warm_up), range(producers)))
            began = time.perf_counter()
            list(pool.map(lambda _: produce(peer), range(producers)))
            return {"per_s": each * producers / (time.perf_counter() - began)}


def _handle_rate(
    opened: Opened, waiting: int, count: int, limit_s: float, directory: Path, divisor: int
) -> Figures:
    done = threading.Event()
    handled = Handled(done)
    handled.expect(min(waiting, count) // divisor)
    with opened(directory, handled) as peer:
        peer.fill(waiting // divisor)
        with peer.handling():
            done.wait(max(limit_s / divisor, LEAST_S))
            return handled.rate()


def _latency(opened: Opened, count: int, gap_s: float, directory: Path, divisor: int) -> Figures:
    """From the call of send to the start of the handler, both idle before, in one process."""
    done = threading.Event()
    handled = Handled(done)
    taken: list[float] = []
    with opened(directory, handled) as peer, peer.handling():
        for _ in range(max(count // divisor, 4) + 1):
            time.sleep(random.uniform(0.005, gap_s))
            handled.expect(1)
            began = time.perf_counter()
            peer.send()
            if not done.wait(WAIT_S):
                raise TimeoutError("a message was not handled")
            taken.append(handled.at - began)
    return percentiles([seconds * 1000 for seconds in taken[1:]])
