"""What a run is to be, and the settings under which it happens."""

from typing import Final, NamedTuple

LEASE_S: Final = 2.0
MAX_CRASHES: Final = 5
SCHEDULE_S: Final = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Before each retry."""


class Plan(NamedTuple):
    """What one run is to be.

    Attributes:
        workers: of each uvicorn.
        seconds: how long it lasts at the most.
        kills: after how many it ends.
        pause_s: between two faults, on average.
        pace_s: between two messages of one producer, on average.
        poison: the share of messages that kill their handlers.
        machines: each of which has its own servers, and its own way to PostgreSQL; 0: all of
            it is on one file of SQLite.
    """

    workers: int
    seconds: float
    kills: int
    pause_s: float
    pace_s: float = 0.05
    poison: float = 0.002
    machines: int = 0
