"""Says once of each message type that waits and that nobody handles."""

import logging
import time
from typing import Final

from kvqueue_fastapi.store.base import Store

log = logging.getLogger("kvqueue_fastapi")

REPORT_S: Final = 5.0
PAGE: Final = 256
MOST_REPORTED: Final = 1_000


class UnhandledTypes:
    """Looks for types that wait in vain, a page at a time.

    Args:
        store: where they wait.
        handled: what this process handles.
    """

    def __init__(self, store: Store, handled: frozenset[str]) -> None:
        self._store = store
        self._handled = handled
        self._reported: set[str] = set()
        self._after = ""
        self._looked_at = float("-inf")

    async def report(self) -> None:
        """Look, if it is time to."""
        if time.monotonic() - self._looked_at < REPORT_S or len(self._reported) >= MOST_REPORTED:
            return
        self._looked_at = time.monotonic()
        page = await self._store.ready_types(after=self._after, limit=PAGE)
        self._after = page[-1] if len(page) == PAGE else ""
        waiting = [k for k in page if k not in self._handled and k not in self._reported]
        if not waiting:
            return
        elsewhere = await self._store.listened_types()
        for kind in waiting:
            if kind not in elsewhere:
                self._reported.add(kind)
                log.warning(
                    "Messages of type %.300r wait, but no listening process handles them. They are "
                    "kept; add a consumer, or discard them with KvQueueAdmin.",
                    kind,
                )
