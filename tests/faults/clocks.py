"""Clocks whose wall clock jumps, as one does that is set by hand or by a time server."""

from pathlib import Path

from injector import Binder, InstanceProvider

from kvqueue_fastapi.store.base import Clock
from kvqueue_fastapi.store.sqlite.engine import SystemClock

HOUR_S = 3_600
HOUR_MS = 3_600_000


class JumpingClock(SystemClock):
    """The machine's clocks; the wall clock is wrong by as much as a file says.

    Whoever reads the same file sees its jumps at the same moment; `worker.py` can.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.jump(0)

    def __call__(self, binder: Binder) -> None:
        binder.bind(Clock, to=InstanceProvider(self))  # type: ignore[type-abstract]

    def jump(self, seconds: float) -> None:
        """Be wrong by so much from now on."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(round(seconds * 1000)))
        fresh.replace(self.file)  # whoever reads sees the old or the new, never half of it

    def wall_ms(self) -> int:
        return super().wall_ms() + int(self.file.read_text())


class TwoClocks:
    """Both stand still until a test moves them, together or the wall clock alone."""

    def __init__(self) -> None:
        self._wall_ms = 1_700_000_000_000
        self._steady_ms = 100_000_000

    def wall_ms(self) -> int:
        return self._wall_ms

    def steady_ms(self) -> int:
        return self._steady_ms

    def pass_ms(self, milliseconds: int) -> None:
        self._wall_ms += milliseconds
        self._steady_ms += milliseconds

    def jump_ms(self, milliseconds: int) -> None:
        self._wall_ms += milliseconds
