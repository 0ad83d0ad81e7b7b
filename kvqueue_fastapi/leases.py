"""Keeps the leases of live handlers, from a thread of its own.

On the event loop a handler that blocks it would starve the renewals, lose its lease, and be
started a second time elsewhere.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from kvqueue_fastapi.errors import KvQueueClosedError
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")

LOOK_S: Final = 0.5
"""How often to look for dead peers."""
SWEEP_S: Final = 3_600
COMPLAIN_S: Final = 5
"""How often at the most to log what goes wrong: the disk that is full may be the log's, too."""


class LeaseKeeper:
    """Prolongs what this process holds, frees what dead ones held, sweeps what is old.

    Args:
        store: whose blocking verbs it calls.
        holds: what this process holds, by message id; read from the keeper's thread.
        lease_s: how long a lease lasts.
        report: says now and then how its process is.
    """

    def __init__(
        self,
        store: Store,
        holds: Mapping[int, Hold],
        lease_s: float,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self._duties = (self._extend, store.end_leases_of_the_dead, self._sweep, report)
        self._store = store
        self._holds = holds
        self._lease_s = lease_s
        self._stop = threading.Event()
        self._swept_at = self._complained_at = float("-inf")
        # A daemon, because a process that forgets to stop it must still be able to exit.
        self._thread = threading.Thread(target=self._main, name="kvqueue-leases", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether it does its duties."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it; fine to call twice, and from the keeper's own thread."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _main(self) -> None:
        while not self._stop.wait(min(LOOK_S, self._lease_s / 6)):
            for duty in self._duties:
                try:
                    duty()
                except KvQueueClosedError:
                    return
                except Exception as error:  # noqa: BLE001 because no error may end the keeper
                    self._complain(error)

    def _extend(self) -> None:
        now = time.monotonic()
        due = [
            hold
            for hold in list(self._holds.values())
            if now - hold.extended_at > self._lease_s / 3 and not (hold.lost or hold.settled)
        ]
        if not due:
            return
        leases = [(hold.claim.id, hold.claim.token) for hold in due]
        lost = self._store.extend(leases, round(self._lease_s * 1000))
        for hold in due:
            hold.extended_at = now
            # What its own commit has just removed was not lost.
            is_ending = hold.ended or hold.settled or hold.settling is not None
            if hold.claim.id in lost and not is_ending:
                hold.lost = True
                log.warning(
                    "The lease on %s %d was lost: another process may have it now",
                    hold.claim.type,
                    hold.claim.id,
                )

    def _sweep(self) -> None:
        if time.monotonic() - self._swept_at < SWEEP_S:
            return
        # A slice at a time, so that leases are kept meanwhile.
        if not self._store.sweep():
            self._swept_at = time.monotonic()

    def _complain(self, error: Exception) -> None:
        if time.monotonic() - self._complained_at >= COMPLAIN_S:
            self._complained_at = time.monotonic()
            with suppress(Exception):  # no log that fails may end it
                log.error("The lease keeper could not do its duty; it tries again", exc_info=error)
