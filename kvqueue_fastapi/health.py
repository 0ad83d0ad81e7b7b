"""Whether a queue is well: its store, its listener, and the age of what waits."""

import asyncio
from collections.abc import Callable
from typing import Final

from kvqueue_fastapi.errors import InvalidOptionError, KvQueueError, shown
from kvqueue_fastapi.keeper import Health
from kvqueue_fastapi.retry import duration_ms
from kvqueue_fastapi.store.base import Store, StoreAdmin

TIMEOUT_S: Final = 2.0
"""How long the store may take to answer."""
_MAX_AGE_LIMIT_S: Final = 3_650 * 86_400


class HealthCheck:
    """Asks the store and the listener how they are.

    Args:
        store: that is open.
        admin: its verbs of the keeper.
        is_listening: whether the listener of this process is alive; None: there is none.
    """

    def __init__(
        self, store: Store, admin: StoreAdmin, is_listening: Callable[[], bool] | None
    ) -> None:
        self._store = store
        self._admin = admin
        self._is_listening = is_listening

    async def run(self, max_age_s: float | None) -> Health:
        """Look once; see `KvQueue.health`."""
        problems: list[str] = []
        age_s = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                age_s = await self._oldest_age_s()
            is_reachable = True
        except (KvQueueError, TimeoutError) as error:
            is_reachable = False
            problems.append(f"the store cannot be reached ({type(error).__name__})")
        if is_reachable and not self._store.can_write:
            problems.append("the store refuses what is written")
        listening = None if self._is_listening is None else self._is_listening()
        if listening is False:
            problems.append("the listener of this process has ended")
        if max_age_s is not None and age_s is not None and age_s > max_age_s:
            problems.append(f"a message has been due for {age_s:.0f} s, the limit is {max_age_s:g}")
        is_store_well = is_reachable and self._store.can_write
        return Health(not problems, is_store_well, listening, age_s, tuple(problems))

    async def _oldest_age_s(self) -> float | None:
        # What nobody handles is no fault of this process, and no restart would mend it.
        age_ms = await self._admin.oldest_ready_age_ms()
        return None if age_ms is None else age_ms / 1000


def checked_max_age_s(value: float | None) -> float | None:
    """The limit that a caller gave.

    Raises:
        InvalidOptionError: it is no number of seconds.
    """
    if value is None:
        return None
    try:
        return duration_ms(value, name="max_age_s", limit_s=_MAX_AGE_LIMIT_S) / 1000
    except InvalidOptionError:
        msg = (
            f"max_age_s is {shown(value)}, allowed are seconds from 0 on. Leave it out for no "
            "limit."
        )
        raise InvalidOptionError(msg) from None
