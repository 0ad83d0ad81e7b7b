"""Times in which nobody could write, the same for every engine.

None who lived through one is to be taken for dead.
"""

import math
import time
from typing import Final

GRACE_S: Final = 1.0
"""At the most. It is longer than a lease keeper rests."""
_GRACE_SHARE: Final = 0.25
"""Of a lease; it is longer than a lease keeper rests where leases are short."""
LATE_S: Final = 60.0
"""For so long it counts that something was refused, unless something else is written."""
_UNSEEN_SHARE: Final = 0.4
"""Of a lease: a holder has more than that left, because it prolongs before half of it is gone."""


class Outages:
    """Remembers when this process could not write, which holds for all others as well.

    While another program holds the lock, the disk is full or the server is away, no holder can
    prolong a lease.
    When that is over, each has a moment for it before leases that ran out meanwhile are ended.
    A process that was itself frozen has seen no others prolong theirs, and waits as well.

    Args:
        lease_s: how long a lease lasts.

    Attributes:
        lasts: whether what is written is refused now.
        is_shut: whether it waits for another program's lock that lets reads pass.
    """

    def __init__(self, lease_s: float) -> None:
        self._unseen_s = lease_s * _UNSEEN_SHARE
        self._grace_s = min(lease_s * _GRACE_SHARE, GRACE_S)
        self._seen_at = time.monotonic()
        self._over_at = self._failed_at = -math.inf
        self.lasts = self.is_shut = False

    @property
    def refuses(self) -> bool:
        """Whether what is written was refused of late, and nothing was written since."""
        # Not for ever: a process that writes nothing would never hear that it is over.
        return self.lasts and time.monotonic() - self._failed_at < LATE_S

    def has_lock(self) -> None:
        """A transaction begins. That none did for long may be because none could."""
        now = time.monotonic()
        if now - self._seen_at > self._unseen_s:
            self._over_at = now
        self._seen_at = now

    def has_written(self) -> None:
        """Something has been committed."""
        if self.lasts:
            self.lasts, self._over_at = False, time.monotonic()

    def has_failed(self) -> None:
        """A transaction has failed in a way in which those of all others would."""
        self.lasts, self._failed_at = True, time.monotonic()

    def is_shut_out(self) -> None:
        """A write has waited for a lock in vain, or would have had to."""
        self.is_shut = True

    def is_let_in(self) -> None:
        """A write need not wait."""
        if self.is_shut:
            self.is_shut, self._over_at = False, time.monotonic()

    def grace_s(self) -> float:
        """For how long leases that ran out are not to be ended."""
        if self.lasts or self.is_shut:
            return self._grace_s
        return max(0.0, self._over_at + self._grace_s - time.monotonic())
