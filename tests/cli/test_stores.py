"""Which store a command opens, and that it makes none."""

import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueueSettings
from kvqueue_fastapi.store.migrations import load_migrations
from kvqueue_fastapi.store.sqlite.connection import Patience
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, migrate
from kvqueue_fastapi.version import __version__
from tests.cli.bench import Bench, Ran
from tests.copying.pairs import Side

Kvqueue = Callable[..., Ran]
READS = [
    "stats",
    "ls",
    "show 1",
    "cancel 1",
    "dead ls",
    "dead show 1",
    "dead requeue 1",
    "dead discard --all --yes",
    "pause n",
    "resume n",
    "listeners",
    "send n",
    "migrate",
    "doctor",
    "health",
]


@pytest.mark.parametrize("command", READS)
def test_no_command_makes_a_store_that_is_not_there(
    directory: Path, kvqueue: Kvqueue, command: str
) -> None:
    before = sorted(directory.iterdir())

    ran = kvqueue(*command.split(), "--url", "gone.db")

    assert ran.code == 1
    assert f"There is no store at {directory / 'gone.db'}." in ran.out + ran.err
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("command", ["ls", "send n", "migrate"])
def test_a_database_that_holds_no_store_is_left_as_it_is(
    bare_postgres_url: str, kvqueue: Kvqueue, command: str
) -> None:
    side = Side(bare_postgres_url, KvQueueSettings())

    ran = kvqueue(*command.split(), "--url", bare_postgres_url)

    assert ran.code == 1
    assert "There is no store at postgresql://" in ran.err
    assert side.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'kvqueue'") == []


@pytest.mark.parametrize("command", ["send n 1", "migrate"])
def test_a_store_is_made_where_that_is_said(
    directory: Path, kvqueue: Kvqueue, command: str
) -> None:
    ran = kvqueue(*command.split(), "--create", "--url", "new.db")

    assert ran.code == 0
    assert stat.S_IMODE((directory / "new.db").stat().st_mode) == 0o600


def test_the_setting_names_the_store_and_the_option_wins(
    directory: Path, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", "a.db")
    kvqueue("send", "n", "1", "--create")
    kvqueue("send", "n", "2", "--create", "--url", "sqlite:///b.db")

    listed = kvqueue("ls", "--json").record, kvqueue("ls", "--json", "--url", "b.db").record

    assert [one["data"] for one in listed] == [1, 2]


def test_the_app_names_the_store_and_the_option_wins(
    bench: Bench, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVQUEUE_URL")
    bench.send(("n", 1))

    by_app = kvqueue("ls", "--json", "--app", "cli_shop:app").record
    by_environment = _with_app(kvqueue, monkeypatch)
    elsewhere = kvqueue("ls", "--app", "cli_shop:queue_module", "--url", "gone.db")

    assert by_app["data"] == by_environment["data"] == 1
    assert elsewhere.code == 1


def _with_app(kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("KVQUEUE_APP", "cli_shop:app")
    return kvqueue("ls", "--json").record


def test_what_redact_hides_is_hidden_where_the_app_is_named(
    bench: Bench, kvqueue: Kvqueue, directory: Path
) -> None:
    (directory / "cli_secret.py").write_text(
        "from kvqueue_fastapi import KvQueueModule\n"
        "queue_module = KvQueueModule('orders.db', redact=lambda kind, value: '***')\n"
    )
    bench.send(("n", "card 4111"))

    shown = kvqueue("ls", "--app", "cli_secret:queue_module")

    assert "4111" not in shown.out
    assert '"***"' in shown.out


def test_what_an_app_prints_while_it_is_made_is_no_answer(
    bench: Bench, kvqueue: Kvqueue, directory: Path
) -> None:
    (directory / "cli_talker.py").write_text(
        "import logging, sys\n"
        "from kvqueue_fastapi import KvQueueModule, Middleware\n"
        "log = logging.getLogger('cli_talker')\n"
        "log.addHandler(logging.StreamHandler(sys.stdout))\n"
        "class Talker(Middleware):\n"
        "    async def send(self, messages, call_next):\n"
        "        log.warning('sends')\n"
        "        return await call_next(messages)\n"
        "print('hello')\n"
        "queue_module = KvQueueModule('orders.db', middleware=[Talker()])\n"
    )

    sent = kvqueue("send", "n", "1", "--json", "--app", "cli_talker:queue_module")
    listed = kvqueue("ls", "--json", "--app", "cli_talker:queue_module")

    assert (sent.code, sent.err) == (0, "hello\nsends\n")
    assert json.loads(sent.out).keys() == {"id"}
    assert listed.record["data"] == 1


def test_a_store_in_memory_is_nobody_elses(kvqueue: Kvqueue) -> None:
    ran = kvqueue("ls", "--url", ":memory:")

    assert ran.code == 2
    assert "A store in memory is known to its own process alone" in ran.err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3cret@127.0.0.1:1/shop",
        "postgresql://127.0.0.1:1/shop?user=ada&password=s3cret",
    ],
)
@pytest.mark.parametrize("command", ["ls", "doctor", "copy", "migrate"])
def test_no_password_is_shown(
    kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch, command: str, url: str
) -> None:
    # a server that is away is waited for, a third of this long
    monkeypatch.setenv("KVQUEUE_LEASE_S", "1")
    where = [url, "target.db"] if command == "copy" else ["--url", url]

    ran = kvqueue(command, *where)

    assert ran.code == 1
    assert "Check that the server runs and can be reached" in ran.out + ran.err
    assert "s3cret" not in ran.out + ran.err
    assert "***" in ran.out + ran.err


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("127.0.0.1:99999/x", "port must be 0-65535"),
        ("127.0.0.1:port/x", "127.0.0.1:***/x: the URL cannot be read"),
        ("127.0.0.1/x?sslmode=perhaps", "`sslmode` parameter must be one of"),
    ],
)
def test_a_url_that_can_lead_nowhere_is_refused_with_how_to_write_one(
    kvqueue: Kvqueue, place: str, told: str
) -> None:
    ran = kvqueue("stats", "--url", f"postgresql://{place}")

    assert ran.code == 1
    assert told in ran.err
    assert "Write the URL as postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in ran.err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:s3?cret@127.0.0.1:1/shop",
        "postgresql://ada:s3cret",
        "postgresql:ada:s3cret@host/shop",
        "ada:s3cret@host/shop",
        "host=srv user=ada password=s3cret",
    ],
)
def test_no_part_of_a_password_is_shown_of_what_is_no_url(kvqueue: Kvqueue, url: str) -> None:
    ran = kvqueue("stats", "--url", url)

    assert ran.code in {1, 2}
    assert "cret" not in ran.out + ran.err
    assert "***" in ran.err


def test_wrong_setting_is_named_without_its_value(
    kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_POSTGRES_LISTEN_URL", "ftp://ada:s3cret@host")

    ran = kvqueue("ls")

    assert ran.code == 2
    assert ran.err.startswith("kvqueue: KVQUEUE_POSTGRES_LISTEN_URL: ")
    assert "s3cret" not in ran.err


@pytest.mark.parametrize("command", ["ls --url", "send n --create --url", "copy orders.db"])
@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("pipe", "{}/pipe is no file, but a pipe, a socket or a device. Give the path of a file."),
        (".", "{} is a directory. Give the path of a file in it, such as {}/kvqueue.db."),
    ],
)
def test_what_is_no_file_is_called_so(
    bench: Bench, kvqueue: Kvqueue, directory: Path, command: str, place: str, told: str
) -> None:
    os.mkfifo("pipe")

    ran = kvqueue(*command.split(), place)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"kvqueue: {told.format(directory, directory)}\n"


def test_schema_that_the_server_keeps_for_itself_is_refused_in_a_line(
    kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_POSTGRES_SCHEMA", "pg_foo")

    ran = kvqueue("migrate", "--create", "--url", "postgresql://127.0.0.1:1/x")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("kvqueue: KVQUEUE_POSTGRES_SCHEMA: Value error, ")
    assert "names that begin with pg_ are PostgreSQL's own: give another, such as" in ran.err
    assert ran.err.count("\n") == 1


def test_what_is_no_database_is_told_in_a_line(directory: Path, kvqueue: Kvqueue) -> None:
    (directory / "text.db").write_text("no database at all, but text\n" * 100)

    ran = kvqueue("ls", "--url", "text.db")

    assert ran.code == 1
    assert "file is not a database. Point KVQUEUE_URL at a file of its own" in ran.err
    assert ran.err.count("\n") == 1


# --- migrate ---


def test_an_older_store_is_migrated_by_migrate_alone(
    directory: Path, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", "old.db")
    known = load_migrations(PACKAGE)
    with closing(sqlite3.connect("old.db", isolation_level=None)) as connection:
        migrate(connection, Patience(30), known[:2])

    before = kvqueue("ls")
    migrated = kvqueue("migrate", "--json")
    again = kvqueue("migrate")

    newest = known[-1].number
    assert before.code == 1
    assert f"has schema 2, this command needs {newest}. Run `kvqueue migrate`." in before.err
    assert migrated.record == {"store": str(directory / "old.db"), "from": 2, "to": newest}
    assert again.out == f"{directory / 'old.db'} has schema {newest} already.\n"
    assert kvqueue("ls").code == 0


# --- what a URL must not give away ---


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://shop:geheim@db/shop",
        "Postgresql://shop:geheim@db/shop",
        "postgresql:/shop:geheim@db/shop",
        "postgres+psycopg:/shop:ge/h@eim@db/shop",
        "redis://:geheim@db",
        "mysql://shop:geheim@db/shop?password=geheim",
        "sqlite://shop:geheim@db",
    ],
)
@pytest.mark.parametrize("command", ["stats", "doctor", "health", "migrate", "backup b.db"])
def test_no_error_shows_a_password(
    directory: Path, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch, url: str, command: str
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", url)

    ran = kvqueue(*command.split())

    assert ran.code == 2
    assert "***@db" in ran.err
    assert "eim" not in ran.out + ran.err
    assert ("without a driver such as +asyncpg" in ran.err) == ("ostgres" in url)
    assert list(directory.glob("*/*")) == []


# --- what another program holds ---


@pytest.mark.parametrize("command", ["stats", "ls", "health", "listeners", "doctor", "dead ls"])
def test_who_only_looks_waits_for_no_writer(
    directory: Path, kvqueue: Kvqueue, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", "orders.db")
    monkeypatch.setenv("KVQUEUE_LEASE_S", "1")
    Bench("orders.db").send(("n", 1))

    with closing(sqlite3.connect("orders.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ran = kvqueue(*command.split())

    assert "holds the database" not in ran.out + ran.err
    assert ran.code == (command == "doctor")


def test_version_is_told_without_a_store(kvqueue: Kvqueue) -> None:
    ran = kvqueue("--version")

    assert (ran.code, ran.out, ran.err) == (0, f"kvqueue {__version__}\n", "")
