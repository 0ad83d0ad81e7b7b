"""What the faces hold, from before the store is open until after it is closed."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from kvqueue_fastapi.errors import KvQueueClosedError, KvQueueError, KvQueueNotStartedError
from kvqueue_fastapi.store.base import Store, StoreAdmin

H = TypeVar("H")

Drain = Callable[[], Awaitable[int]]


class StoreHandle(Generic[H]):
    """Gives the store while it is open, and says what is wrong while it is not.

    Attributes:
        handler_of: the handler of a type in this process, once they are known.
        drain: handles what is due in the caller's task, once the handlers are known.
    """

    def __init__(self) -> None:
        self._store: Store | None = None
        self._admin: StoreAdmin | None = None
        self._was_open = False
        self.handler_of: Callable[[str], H | None] = _nobody
        self.drain: Drain = _no_drain

    @property
    def store(self) -> Store:
        """The open store.

        Raises:
            KvQueueNotStartedError: it was never opened.
            KvQueueClosedError: it is closed again.
        """
        if self._store is None:
            raise KvQueueClosedError if self._was_open else KvQueueNotStartedError
        return self._store

    @property
    def admin(self) -> StoreAdmin:
        """The open store's verbs of the keeper; raises as `store` does."""
        if self._admin is None:
            raise KvQueueClosedError if self._was_open else KvQueueNotStartedError
        return self._admin

    @property
    def is_open(self) -> bool:
        """Whether there is a store now."""
        return self._store is not None

    def open(self, store: Store, admin: StoreAdmin) -> None:
        """Hand the store out from now on."""
        if self._store is not None:
            msg = (
                "This queue is running already. Give each app a KvQueueModule of its own, "
                "and use `running()` outside a running app."
            )
            raise KvQueueError(msg)
        self._store, self._admin, self._was_open = store, admin, True

    def close(self) -> None:
        """Hand the store out no longer."""
        self._store = self._admin = None
        self.handler_of, self.drain = _nobody, _no_drain


def _nobody(_message_type: str) -> Any:
    return None


async def _no_drain() -> int:
    raise KvQueueNotStartedError
