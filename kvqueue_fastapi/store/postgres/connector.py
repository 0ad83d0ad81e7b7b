"""How connections to one server are made, and what it is told on each of them."""

from collections.abc import Callable
from typing import Any, Final

import asyncpg

from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres import statements as sql
from kvqueue_fastapi.store.postgres.connection import (
    CONNECT_TIMEOUT_S,
    URL_REMEDY,
    OwnSession,
    Patience,
    transaction_ms,
)
from kvqueue_fastapi.store.postgres.forks import kept_from_children
from kvqueue_fastapi.urls import has_password, shown_url

# of Python itself: a port that is no number, one beyond 65535, an empty host
_OF_A_PARSER: Final = (ValueError, OverflowError, IndexError)
_LIMITS_TRANSACTIONS: Final = (17,)
"""From which version of the server on."""


class Connector:
    """Makes connections to one server, straight or through a pooler, and begins transactions.

    Args:
        url: of the server, and of nothing else if it fails over.
        settings: whether the URL is that of a pooler, and the one to listen on then.
        patience: with the server.
        name: of each connection.

    Attributes:
        is_pooled: whether what the server was told on a connection holds for a transaction only.
        life: of the server, as the last connection found it; another one after a crash.
        server_changed: called when it has crashed, or another one has its place.
    """

    def __init__(self, url: str, settings: KvQueueSettings, patience: Patience, name: str) -> None:
        self.is_pooled = settings.postgres_listen_url is not None
        self.life: object = None
        self.server_changed: Callable[[], None] = _nothing
        self._url = url
        self._listen_url = settings.postgres_listen_url or url
        self._patience = patience
        self._name = name
        self._limits_transactions = False

    async def connect(self) -> Any:
        """A connection for statements."""
        options = self._options(self._url, pooled=self.is_pooled)
        connection = await _connected(self._url, options)
        try:
            life = await connection.fetchval(sql.LIFE, timeout=CONNECT_TIMEOUT_S)
            is_limited = connection.get_server_version() >= _LIMITS_TRANSACTIONS
            if is_limited and not self.is_pooled:
                await connection.execute(sql.LIMIT_NO_TRANSACTION, timeout=CONNECT_TIMEOUT_S)
        except BaseException:
            connection.terminate()
            raise
        if self.life not in (None, life):
            self.server_changed()
        self.life = life
        self._limits_transactions = is_limited
        return connection

    async def connect_to_listen(self) -> Any:
        """A connection of one's own, straight to the server."""
        options = self._options(self._listen_url, pooled=False)
        return await _connected(self._listen_url, options)

    async def begin(self, session: OwnSession) -> None:
        """Begin a transaction, with all that the server is to know for it."""
        parts = [sql.BEGIN]
        if self.is_pooled:
            # What the pooler's connection to the server was told before is not known.
            settings = self._patience.settings.items()
            parts += [f"SET LOCAL {name} = '{value}'" for name, value in settings]
        if self._limits_transactions:
            limit_ms = transaction_ms(session.timeout_s)
            parts.append(sql.LIMIT_TRANSACTION.format(milliseconds=limit_ms))
        script = "; ".join(parts)
        await session.execute(script)

    def _options(self, url: str, *, pooled: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"timeout": CONNECT_TIMEOUT_S}
        if pooled:
            # A pooler takes no settings at the start, and has no prepared statements to keep.
            options["statement_cache_size"] = 0
            options["server_settings"] = {"application_name": self._name}
        else:
            settings = {**self._patience.settings, "application_name": self._name}
            options["server_settings"] = settings
        if "," in url and "target_session_attrs" not in url:
            options["target_session_attrs"] = "primary"
        return options


async def _connected(url: str, options: dict[str, Any]) -> Any:
    try:
        return kept_from_children(await asyncpg.connect(url, **options))
    except _OF_A_PARSER as error:
        # Neither one of the driver's, nor a certificate that does not fit, is the URL's fault.
        if isinstance(error, asyncpg.InterfaceError | OSError):
            raise
        # Its own words may have a part of the password, and so may its traceback.
        text = "the URL cannot be read" if has_password(url) else str(error).rstrip(".")
        msg = f"{shown_url(url)}: {text}.{URL_REMEDY}"
        raise StoreError(msg) from None


def _nothing() -> None: ...
