"""`kvqueue backup` and `restore`: a store as it was at one moment."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from kvqueue_fastapi.backup import backup_store, restore_store
from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.options import Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.progress import bars
from kvqueue_fastapi.cli.stores import Place, completed
from kvqueue_fastapi.cli.texts import counted
from kvqueue_fastapi.store.backups import BackupProgress, Progress, StoreBackup
from kvqueue_fastapi.urls import shown_url


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "backup", _backup)
    add(app, "restore", _restore)


def _backup(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="The path of a file that is not there yet.")
    ],
    *,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Copy a SQLite store into one file, as it is now, while it is in use.

    On PostgreSQL use pg_dump.
    """
    # Only what the settings say of its place: nothing of the store is opened.
    source = Place(url).runtime().settings.url

    async def work() -> StoreBackup:
        with _told("Back up") as told:
            return await backup_store(source, target, progress=told)

    _tell("Backed up to", completed(work()), Output(as_json=as_json))


def _restore(
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="What `backup` has made.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A path where no database is yet.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Make a store out of a backup, for an app to start on.

    Stop what uses the old one, and move it away with its -wal and -shm. What was handled after
    the backup is handled again, and what was sent after it is not there.
    """

    async def work() -> StoreBackup:
        with _told("Restore") as told:
            return await restore_store(backup, target, progress=told)

    _tell("Restored to", completed(work()), Output(as_json=as_json))


@contextmanager
def _told(what: str) -> Generator[Progress]:
    with bars() as shown:
        bar_id = shown.add_task(f"{what} pages", total=None)

        def tell(progress: BackupProgress) -> None:
            shown.update(bar_id, completed=progress.pages, total=progress.total)

        yield tell


def _tell(what: str, made: StoreBackup, output: Output) -> None:
    if output.as_json:
        output.record({**asdict(made), "path": str(made.path)})
        return
    output.say(
        f"{what} {shown_url(str(made.path))} ({made.size_bytes:,} bytes): "
        f"{counted(made.messages, 'message')}, "
        f"{counted(made.dead_letters, 'dead letter')}, {counted(made.keys, 'key')}."
    )
