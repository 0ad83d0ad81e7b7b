"""Log records that say which message they are about."""

import logging
from contextvars import ContextVar
from typing import Any, Final

from kvqueue_fastapi.message import Message
from kvqueue_fastapi.middleware import CallHandler, Middleware

_handled: Final[ContextVar[Message[Any] | None]] = ContextVar("kvqueue_handled", default=None)
_NAMED: Final = (("message_id", "id"), ("message_type", "type"), ("attempt", "attempt"))


class MessageLogMiddleware(Middleware):
    """Lets `MessageLogFilter` know which message is handled.

    Also what the handler calls, in tasks that it starts, and in the thread of a `def` handler.
    """

    async def handle(self, message: Message[Any], call_next: CallHandler) -> None:
        """Have the message known while its handler runs."""
        token = _handled.set(message)
        try:
            await call_next(message)
        finally:
            _handled.reset(token)


class MessageLogFilter(logging.Filter):
    """Gives each log record `message_id`, `message_type` and `attempt`, as our own records have.

    None of all three outside a handler, so that a format may name them always. What a record has
    already by `extra` stays. Add it to a `logging.Handler`, not to a logger: a logger's filters
    do not see what its children log. It lets every record pass.

        handler = logging.StreamHandler()
        handler.addFilter(MessageLogFilter())
        handler.setFormatter(logging.Formatter("%(message_id)s %(levelname)s %(message)s"))
        logging.basicConfig(handlers=[handler])

        queue_module = KvQueueModule("orders.db", middleware=[MessageLogMiddleware()])
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what is missing."""
        message = _handled.get()
        for name, attribute in _NAMED:
            if not hasattr(record, name):
                value = None if message is None else getattr(message, attribute)
                setattr(record, name, value)
        return True
