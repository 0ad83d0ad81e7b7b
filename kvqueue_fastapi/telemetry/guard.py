"""What keeps telemetry from failing that which it tells of."""

import logging
from contextlib import suppress
from types import TracebackType
from typing import Final

log = logging.getLogger("kvqueue_fastapi")

_TEXT: Final = (
    "%s failed; what it was to tell of went on as it was. Further errors of this class are not "
    "logged"
)


class Guard:
    """Around a step of telemetry, whose errors are logged, once for each class, and go no further.

        with self._guard:
            counter.inc()

    Args:
        whose: what fails then, such as "PrometheusMiddleware".
    """

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._logged: set[type[BaseException]] = set()

    def __enter__(self) -> None:
        """Begin the step."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """End it; True where it failed."""
        if kind is None or not issubclass(kind, Exception):
            return False
        if kind not in self._logged:
            self._logged.add(kind)
            with suppress(Exception):  # no log that fails may do what telemetry may not
                log.error(_TEXT, self._whose, exc_info=error)
        return True
