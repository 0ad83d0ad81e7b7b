"""`kvqueue doctor` and `kvqueue health`."""

import json
import re
import secrets
import shlex
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kvqueue_fastapi import KvQueueSettings, ListenerRecord, TypeCounts
from kvqueue_fastapi.cli.symptoms.listening import MANY_ON_SQLITE, of_listeners
from kvqueue_fastapi.cli.symptoms.outside import of_survey
from kvqueue_fastapi.cli.symptoms.waiting import of_counts
from kvqueue_fastapi.store.migrations import load_migrations
from kvqueue_fastapi.store.sqlite import location
from kvqueue_fastapi.store.sqlite.connection import Patience
from kvqueue_fastapi.store.sqlite.schema import PACKAGE, migrate
from kvqueue_fastapi.store.surveys import StoreSurvey
from tests.cli.bench import Bench, Ran
from tests.cli.terminal import piped
from tests.copying.pairs import Side
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]
NOW_MS = 1_800_000_000_000

AS_NOBODY = """
import contextlib, io, os, sys
from kvqueue_fastapi.cli import main

doctor = ["doctor", "--json", "--url", sys.argv[1]]
# Whatever Python loads on the way is loaded now: nobody may have no right to read it.
with contextlib.redirect_stdout(io.StringIO()):
    main(doctor)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65_534)
    os.setuid(65_534)
sys.exit(main(doctor))
"""
"""Started by root, it becomes nobody; by another user, it stays what it is."""

FILE = StoreSurvey(
    where="orders.db", engine="SQLite", version="3.45.1", is_there=True, schema=3, known_schema=3
)
SERVER = replace(FILE, where="postgresql://db/shop", engine="PostgreSQL", version="18.0 (Debian)")
LISTENER = ListenerRecord(
    id=1,
    host="web-1",
    pid=7,
    since_ms=NOW_MS - 60_000,
    types=("n",),
    leases=0,
    seen_ms=NOW_MS - 1_000,
    version="1.0",
)
COUNTS = TypeCounts(
    type="n",
    ready=0,
    delayed=0,
    blocked=0,
    running=0,
    quarantined=0,
    isolated=0,
    dead=0,
    oldest_age_s=None,
    paused=False,
    handled=True,
)


def found(ran: Ran, severity: str) -> list[str]:
    return [what for kind, what, _ in ran.rows if kind == severity]


# --- on a real store ---


@ON_BOTH_ENGINES
def test_a_queue_that_is_well_has_no_problem(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("doctor")

    assert (ran.code, ran.err, found(ran, "problem")) == (0, "", [])
    assert found(ran, "warning") == ["Nobody listens."]
    assert any(re.search(r" is on (SQLite|PostgreSQL) \d+\.", note) for note in found(ran, "note"))


@ON_BOTH_ENGINES
def test_type_that_waits_and_nobody_handles_is_a_problem(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("order.created", 1), ("order.created", 2))

    ran = kvqueue("doctor", "--json")

    (problem,) = [one for one in ran.records if one["severity"] == "problem"]
    assert ran.code == 1
    assert problem["what"] == (
        "Messages of type order.created (2) wait, but no listening process handles that type."
    )
    assert problem["remedy"].startswith("Start the app that does, or put its consumer into")


@ON_BOTH_ENGINES
def test_waiting_message_that_the_model_of_today_refuses_is_a_problem(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    (good, bad) = bench.send(("order.created", {"order_id": 1}), ("order.created", {"order": 2}))

    ran = kvqueue("doctor", "--app", "cli_shop:app", "--url", bench.url)

    misfits = [what for what in found(ran, "problem") if what.startswith("Message ")]
    assert ran.code == 1
    assert [what.partition(":")[0] for what in misfits] == [
        f"Message {bad} of type order.created would not be taken by its handler"
    ]
    assert "order_id: Field required" in misfits[0]
    assert not any("were not held against" in note for note in found(ran, "note"))
    assert good != bad


def test_what_was_given_up_and_what_is_paused_are_warnings(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("mail.send", 1)
    bench.send(("n", 1))
    kvqueue("pause", "n")

    ran = kvqueue("doctor")

    assert "Messages of type mail.send (1) were given up." in found(ran, "warning")
    assert "Messages of type n (1) wait, because the type is paused." in found(ran, "warning")


def test_network_file_system_is_a_problem(
    bench: Bench, kvqueue: Kvqueue, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = directory / "mounts"
    mounts.write_text("1 0 0:1 / / rw - nfs4 server:/export rw\n")
    monkeypatch.setattr(location, "_MOUNTS", mounts)

    ran = kvqueue("doctor")

    assert ran.code == 1
    assert ran.rows == [
        [
            "problem",
            f"{bench.url} lies on a network file system (nfs4), where SQLite's locks do not hold.",
            "Put it on a local disk.",
        ]
    ]


def test_file_that_may_not_be_written_is_a_problem(kvqueue: Kvqueue) -> None:
    # Not in the directory of the tests, because nobody else may look into that.
    with TemporaryDirectory() as directory:
        path = Path(directory) / "orders.db"
        kvqueue("migrate", "--create", "--url", path)
        Path(directory).chmod(0o777)
        path.chmod(0o444)

        ran = piped(sys.executable, "-c", AS_NOBODY, str(path))

    problems = [json.loads(line)["what"] for line in ran.stdout.splitlines() if "problem" in line]
    assert ran.returncode == 1, ran.stderr
    assert f"This user lacks the right to read and write {path}." in problems


def test_file_that_everybody_may_read_is_a_warning(bench: Bench, kvqueue: Kvqueue) -> None:
    Path(bench.url).chmod(0o644)

    ran = kvqueue("doctor")

    assert any(what.startswith("Every user of this machine") for what in found(ran, "warning"))
    Path(bench.url).chmod(0o660)
    assert "Every user" not in kvqueue("doctor").out


def test_store_of_an_older_schema_is_a_problem(directory: Path, kvqueue: Kvqueue) -> None:
    with closing(sqlite3.connect("old.db", isolation_level=None)) as connection:
        migrate(connection, Patience(30), load_migrations(PACKAGE)[:1])

    ran = kvqueue("doctor", "--url", "old.db")

    assert ran.code == 1
    assert ran.rows[0][1].startswith("The store has schema 1, this version needs ")
    assert ran.rows[0][2] == "Run kvqueue migrate."


def test_rights_that_a_role_lacks_are_a_problem(postgres_url: str, kvqueue: Kvqueue) -> None:
    side, role = Side(postgres_url, KvQueueSettings()), f"doctor_{secrets.token_hex(4)}"
    for statement in (
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON SCHEMA kvqueue TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA kvqueue TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA kvqueue TO {role}",
        f"REVOKE DELETE ON kvqueue.kvqueue_messages FROM {role}",
    ):
        side.execute(statement)

    ran = kvqueue("doctor", "--url", f"{postgres_url}?role={role}")

    side.execute(f"DROP OWNED BY {role}")
    side.execute(f"DROP ROLE {role}")
    assert ran.code == 1
    assert found(ran, "problem") == ["This user lacks the right DELETE on kvqueue_messages."]


# --- from records that no store of a test has ---


@pytest.mark.parametrize(
    ("survey", "severity", "says"),
    [
        (replace(FILE, wal_bytes=200 << 20), "warning", "orders.db-wal has 200 MiB"),
        (replace(FILE, wal_bytes=64 << 20), None, ""),
        (replace(FILE, schema=4), "warning", "schema 4, this version knows 3"),
        (replace(SERVER, clock_ahead_s=61), "warning", "61 s ahead of that of this machine"),
        (replace(SERVER, clock_ahead_s=-61), "warning", "61 s behind that of this machine"),
        (replace(SERVER, clock_ahead_s=4), None, ""),
        (replace(SERVER, version="12.22"), "problem", "PostgreSQL is 12.22, 13 or newer"),
        (replace(SERVER, lacking=("SELECT on x",)), "problem", "lacks the right SELECT on x"),
    ],
)
def test_what_is_wrong_from_outside_is_found(
    survey: StoreSurvey, severity: str | None, says: str
) -> None:
    note, *findings = of_survey(survey)

    assert note.severity == "note"
    assert [one.severity for one in findings] == ([severity] if severity else [])
    assert all(says in one.what and one.remedy for one in findings)


@pytest.mark.parametrize(
    ("change", "severity", "says"),
    [
        (
            {"loop_lag_ms": 1_400},
            "problem",
            "process 7 on web-1 had its event loop",
        ),
        ({"loop_lag_ms": 300}, "warning", "blocked for 0.3 s"),
        ({"loop_lag_ms": 100}, None, ""),
        ({"seen_ms": NOW_MS - 200_000}, "problem", "was last seen 3 min ago"),
        ({"seen_ms": NOW_MS - 40_000}, None, ""),
        ({"seen_ms": NOW_MS + 60_000}, "warning", "at a time that has not come yet"),
        ({"version": "0.9"}, "warning", "several versions: 0.9, 1.0"),
        ({"version": ""}, None, ""),
    ],
)
def test_what_is_wrong_with_a_listener_is_found(
    change: dict[str, Any], severity: str | None, says: str
) -> None:
    findings = list(
        of_listeners([replace(LISTENER, **change)], FILE, pool_size=5, version="1.0", now_ms=NOW_MS)
    )

    assert [one.severity for one in findings] == ([severity] if severity else [])
    assert all(says in one.what and one.remedy for one in findings)


@pytest.mark.parametrize(
    ("survey", "processes", "says"),
    [
        (FILE, MANY_ON_SQLITE, None),
        (FILE, MANY_ON_SQLITE + 1, "17 processes listen on one SQLite file"),
        (replace(SERVER, most_connections=100), 8, None),
        (replace(SERVER, most_connections=100), 9, "may use 90 connections, of 100"),
    ],
)
def test_too_many_processes_are_found(
    survey: StoreSurvey, processes: int, says: str | None
) -> None:
    # two listeners in each
    listeners = [replace(LISTENER, pid=pid) for pid in range(processes)] * 2

    findings = list(of_listeners(listeners, survey, pool_size=5, version="1.0", now_ms=NOW_MS))

    assert [says in one.what for one in findings] == ([True] if says else [])


def test_several_hosts_on_one_file_are_found() -> None:
    listeners = [LISTENER, replace(LISTENER, host="web-2")]

    def whats(survey: StoreSurvey) -> list[str]:
        found = of_listeners(listeners, survey, pool_size=5, version="1.0", now_ms=NOW_MS)
        return [one.what for one in found]

    assert whats(FILE) == ["Several hosts listen on one file: web-1, web-2."]
    assert whats(SERVER) == []


@pytest.mark.parametrize(
    ("change", "severity", "says"),
    [
        ({"isolated": 2}, "problem", "(2) were in hand when their process died"),
        ({"quarantined": 1}, "problem", "(1) were in hand when their process died"),
        ({"oldest_age_s": -60.0}, "warning", "was sent 60 s from now"),
        ({"delayed": 3, "handled": False}, "problem", "(3) wait, but no listening process"),
        ({"running": 3}, None, ""),
    ],
)
def test_what_is_wrong_with_a_type_is_found(
    change: dict[str, Any], severity: str | None, says: str
) -> None:
    findings = list(of_counts([replace(COUNTS, **change)]))

    assert [one.severity for one in findings] == ([severity] if severity else [])
    assert all(says in one.what and one.remedy for one in findings)


@pytest.mark.parametrize(
    ("message_type", "search", "name"),
    [
        ("n", "type:n", "n"),
        ("a b", """'type:"a b"'""", "'a b'"),
        ("x; rm -rf $HOME", """'type:"x; rm -rf $HOME"'""", "'x; rm -rf $HOME'"),
        ("x$(id)", "'type:x$(id)'", "'x$(id)'"),
    ],
)
def test_a_type_in_a_command_is_quoted_for_the_shell(
    bench: Bench, kvqueue: Kvqueue, message_type: str, search: str, name: str
) -> None:
    bench.die(message_type, 1)
    bench.send((message_type, 1))
    bench.ask(lambda admin: admin.pause(message_type))

    remedies = " ".join(one["remedy"] for one in kvqueue("doctor", "--json").records)

    assert f"kvqueue ls {search}, kvqueue cancel." in remedies
    assert f"kvqueue dead ls {search}." in remedies
    assert f"kvqueue resume {name}." in remedies
    assert len(kvqueue("dead", "ls", "--json", *shlex.split(search)).records) == 1


def test_a_directory_that_is_not_there_is_no_missing_right(
    directory: Path, kvqueue: Kvqueue
) -> None:
    (directory / "empty").touch(0o666)
    (directory / "empty").chmod(0o666)

    away = kvqueue("doctor", "--url", "none/shop.db")
    empty = kvqueue("doctor", "--url", "empty")
    itself = kvqueue("doctor", "--url", str(directory))

    assert (away.code, empty.code, itself.code) == (1, 1, 1)
    assert f"no store at {directory}/none/shop.db, and no directory to hold one." in away.out
    assert "lacks the right" not in away.out
    assert "chmod" not in empty.out
    assert f"{directory} is a directory." in itself.out
    assert "disk" not in itself.out


# --- health ---


@ON_BOTH_ENGINES
def test_store_that_answers_is_healthy(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("health")

    assert ran == Ran(0, "The store answers, nothing is due.\n", "")
    assert kvqueue("health", "--json", "--max-age", 60).record == {
        "ok": True,
        "store": True,
        "listening": None,
        "oldest_age_s": None,
        "problems": [],
    }


@ON_BOTH_ENGINES
def test_health_names_what_waits_that_nobody_handles(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.send(("mail.send", 1), ("order.created", 1))

    ran = kvqueue("health", "--max-age", 60)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "The store answers, nothing is due that anyone handles.\n"
        "2 types wait that nobody handles: mail.send, order.created.\n"
    )


def test_store_that_is_not_there_is_not_healthy(directory: Path, kvqueue: Kvqueue) -> None:
    ran = kvqueue("health", "--url", "gone.db", "--json")

    assert (ran.code, ran.record["ok"], ran.record["store"]) == (1, False, False)
