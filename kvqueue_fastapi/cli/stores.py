"""How a command opens a store: the one that it was told of, and only if it is there."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kvqueue_fastapi.cli.apps import app_of
from kvqueue_fastapi.cli.exits import FailedError
from kvqueue_fastapi.cli.progress import waiting_for
from kvqueue_fastapi.lifespan import Runtime
from kvqueue_fastapi.module import KvQueueModule
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store import survey_store
from kvqueue_fastapi.store.surveys import StoreSurvey
from kvqueue_fastapi.urls import shown_url
from kvqueue_fastapi.worker import runtime_of

T = TypeVar("T")


class Place(NamedTuple):
    """Where a command looks for its store.

    Attributes:
        url: None: that of the app, or the setting.
        app: "module:app", whose models and `redact` count; None: none do.
    """

    url: str | None = None
    app: str | None = None

    def runtime(self) -> Runtime:
        """The queue there, which never listens.

        Raises:
            WrongCommandError: there is no such app.
            pydantic.ValidationError: a setting is outside its limits.
        """
        if self.app is None:
            return KvQueueModule(self.url, listen=False).runtime()
        # What it prints meanwhile is not the answer, nor is what its logging writes from then on.
        with redirect_stdout(sys.stderr):
            runtime = runtime_of(app_of(self.app, Path()))
        runtime.overrule(listen=False, **({} if self.url is None else {"url": self.url}))
        return runtime

    @asynccontextmanager
    async def opened(self, *, create: bool = False) -> AsyncGenerator[Runtime]:
        """The queue there, open.

        Args:
            create: whether to make a store where none is.

        Raises:
            FailedError: there is no store, or an older one.
            StoreError: it cannot be opened.
        """
        runtime = self.runtime()
        require_store(await surveyed(runtime.settings), create=create)
        async with runtime.running():
            yield runtime


async def surveyed(settings: KvQueueSettings) -> StoreSurvey:
    """Look at the store of some settings from outside."""
    with waiting_for(shown_url(settings.url)):
        return await survey_store(settings.url, settings)


def require_store(survey: StoreSurvey, *, create: bool = False) -> None:
    """Refuse what would have to be made or migrated first.

    Raises:
        FailedError: there is no store, or an older one.
    """
    if not survey.is_there and not create:
        msg = (
            f"There is no store at {survey.where}. Name another by --url or KVQUEUE_URL; an app "
            "makes one when it starts, and so does `kvqueue migrate --create`."
        )
        raise FailedError(msg)
    if survey.is_there and survey.schema < survey.known_schema:
        msg = (
            f"The store at {survey.where} has schema {survey.schema}, this command needs "
            f"{survey.known_schema}. Run `kvqueue migrate`."
        )
        raise FailedError(msg)


def completed(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command does, to its end. SIGTERM breaks it off as Ctrl+C does.

    Raises:
        FailedError: SIGTERM has.
        KeyboardInterrupt: Ctrl+C has.
    """
    return asyncio.run(_ended_by_sigterm(work))


async def _ended_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    loop, working, terminated = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def terminate() -> None:
        terminated.set()
        if working is not None:
            working.cancel()

    with suppress(RuntimeError):  # Windows has no SIGTERM to wait for, nor has another thread
        loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await work
    except asyncio.CancelledError:
        if terminated.is_set():
            msg = "SIGTERM has ended it."
            raise FailedError(msg) from None
        raise
    finally:
        with suppress(RuntimeError):
            loop.remove_signal_handler(signal.SIGTERM)
