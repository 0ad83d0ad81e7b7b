"""The message types that telemetry tells apart."""

import threading
from typing import Final

from kvqueue_fastapi.errors import InvalidOptionError

OTHER: Final = "other"
"""What all further types are called."""
MAX_TYPES: Final = 100
"""How many types are told apart where nothing else is said."""


class TypeNames:
    """Names the first so many message types, and calls all others "other".

    A monitoring system keeps a series for each name for as long as it remembers. Types that come
    from outside, or that somebody makes by the thousand, must not fill it.

    A type that a handler takes always has its name: of those there are only as many as the code
    says, and they are not to be crowded out by what others send.

    Args:
        limit: how many others are told apart, 0 or more.

    Raises:
        InvalidOptionError: the limit is below 0.
    """

    def __init__(self, limit: int = MAX_TYPES) -> None:
        if limit < 0:
            msg = f"max_types is {limit}, allowed is 0 or more. {MAX_TYPES} is usual."
            raise InvalidOptionError(msg)
        self._limit = limit
        self._handled: set[str] = set()
        self._others: set[str] = set()
        self._lock = threading.Lock()

    def of(self, message_type: str, *, is_handled: bool = False) -> str:
        """What a type is called from now on.

        Args:
            message_type: any text.
            is_handled: whether a handler takes it, in whatever process.
        """
        if message_type in self._handled or (not is_handled and message_type in self._others):
            return message_type
        # In whatever thread: a `def` handler that outlived the shutdown is told of in its own.
        with self._lock:
            if is_handled:
                self._handled.add(message_type)
            elif len(self._others) < self._limit:
                self._others.add(message_type)
            else:
                return OTHER
        return message_type
