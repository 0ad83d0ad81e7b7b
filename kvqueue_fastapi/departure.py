"""How a listener leaves the store, at once or with its last handler."""

import logging
import threading
from collections.abc import MutableMapping

from kvqueue_fastapi.deliveries import Deliveries
from kvqueue_fastapi.leases import LeaseKeeper
from kvqueue_fastapi.message import Hold
from kvqueue_fastapi.model import Outcome, Settlement
from kvqueue_fastapi.reports import Reporter
from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")


class Departure:
    """Takes a listener off the list of those that listen.

    Args:
        store: whose blocking verbs it calls.
        keeper: goes on while a handler does.
        reporter: says the last word.
        deliveries: told of what ends late.
        holds: what the listener holds, by message id.
    """

    def __init__(
        self,
        store: Store,
        keeper: LeaseKeeper,
        reporter: Reporter,
        deliveries: Deliveries,
        holds: MutableMapping[int, Hold],
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._reporter = reporter
        self._deliveries = deliveries
        self._holds = holds
        self._listener_id = 0
        self._has_begun = threading.Event()
        self._last = threading.Lock()

    def leave(self, listener_id: int, *, lingers: bool) -> None:
        """Leave now, or with the last handler that has not ended. Blocks.

        Args:
            listener_id: who leaves.
            lingers: handlers go on. What they hold keeps its lease; the last of them leaves in
                the listener's place, or the end of the process does.
        """
        self._listener_id = listener_id
        try:
            if lingers:
                self._store.retain()
                self._store.retire_listener(listener_id)
            else:
                self._go()
        finally:
            self._has_begun.set()

    def settle_late(self, hold: Hold, settlement: Settlement | None) -> None:
        """Settle a message whose handler outlived the listener, unless that has settled it.

        Blocks; called in any thread.
        """
        self._has_begun.wait()
        try:
            (held,) = (True,) if settlement is None else self._store.settle_now([settlement])
            outcome = Outcome.DONE if settlement is None else settlement.outcome
            self._deliveries.ended(hold, outcome, was_held=held)
        except Exception:
            log.exception("Message %d could not be settled; it comes again", hold.claim.id)
        with self._last:
            self._holds.pop(hold.claim.id, None)
            is_last = not self._holds
        if is_last:
            self._leave_late()

    def _leave_late(self) -> None:
        try:
            self._go()
        except Exception:
            log.exception("The listener could not leave cleanly; its peers see that it is gone")
        finally:
            self._store.let_go()

    def _go(self) -> None:
        self._keeper.stop()
        self._reporter.finish()
        self._store.leave_listener(self._listener_id)
