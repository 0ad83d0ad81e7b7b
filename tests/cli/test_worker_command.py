import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.bench import Bench, Ran

STARTS = """
import logging, os, signal
from contextlib import asynccontextmanager
from fastapi import FastAPI
from kvqueue_fastapi import KvQueueModule, on_queue_message

@asynccontextmanager
async def lifespan(_app):
    {startup}
    yield

@on_queue_message("order.created")
async def pack() -> None:
    os.kill(os.getpid(), signal.SIGTERM)

@on_queue_message("mail.send")
async def mail() -> None: ...

app = FastAPI(lifespan=lifespan)
KvQueueModule("orders.db", consumers=[pack, mail]).install(app)
"""
STOP = "os.kill(os.getpid(), signal.SIGTERM)"


# --- wrong commands ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("cli_shop", r"'cli_shop' is no module:app\. Name a module and the app in it, such as"),
        (":app", r"':app' is no module:app"),
        ("cli_shop:", r"'cli_shop:' is no module:app"),
        (".cli_shop:app", r"'\.cli_shop:app' is no module:app"),
        ("cli_shop.py:app", r"'cli_shop\.py' is a file\. Name the module as an import does"),
        ("./cli_shop:app", r"'\./cli_shop' is a file"),
        ("cli_shopp:app", r"no module 'cli_shopp' in /.*Start where it is, or name its directory"),
        ("cli_shopp.web:app", r"There is no module 'cli_shopp\.web'"),
        ("cli_shop.web:app", r"There is no module 'cli_shop\.web'"),
        ("cli_shop:ap", r"'cli_shop' has no 'ap'\. It has .*cli_shop:app, cli_shop:queue_module"),
        ("cli_shop:app.queue", r"'cli_shop' has no 'app\.queue'"),
        ("os:app", r"'os' has no 'app'\. Name the app in it\."),
        (
            "cli_shop:number",
            r"number is of type int, allowed is a FastAPI app or a KvQueueModule\.",
        ),
        ("cli_shop:create_app", r"is of type function.*If it makes the app, add --factory\."),
        ("cli_shop:app --factory", r"app is of type FastAPI, no factory\. Leave --factory out\."),
        ("cli_shop:number --factory", r"number is of type int, no factory"),
        ("cli_shop:wrapped --factory", r"cannot be called without arguments: missing .* 'scope'"),
        ("cli_shop:create_nothing --factory", r"What .* made is of type NoneType, allowed is"),
        (
            "cli_shop:create_later --factory",
            r"made is of type coroutine.*Write the factory with `def`\.",
        ),
        ("cli_shop:bare", r"cli_shop:bare: This app has no queue\. Call queue_module\.install\("),
        ("cli_shop:app --app-dir gone", r"There is no directory /.*/gone\. Name the one that has"),
        ("cli_shop:app --concurrency 0", r"'--concurrency': '0' is not allowed: .* or equal to 1"),
        ("cli_shop:app --concurrency few", r"'--concurrency': 'few' is not allowed: .*integer"),
        ("cli_shop:app --types ,", r"--types names no message type\. Write --types order\.created"),
        ("cli_shop:app --types=", r"--types names no message type\."),
        ("", r"Missing argument 'module:app'\. See `kvqueue worker --help`\."),
    ],
)
def test_wrong_command_says_what_to_write(
    kvqueue: Callable[..., Ran], arguments: str, says: str
) -> None:
    ran = kvqueue("worker", *arguments.split())

    assert (ran.code, ran.out) == (2, "")
    assert re.match(r"kvqueue: .+\n\Z", ran.err)
    assert re.search(says, ran.err), ran.err


def test_without_a_command_the_commands_are_told(kvqueue: Callable[..., Ran]) -> None:
    ran = kvqueue()

    assert ran.code == 2
    for command in ("ls", "show", "send", "dead", "worker", "migrate", "copy"):
        assert re.search(rf"^. {command} ", ran.out, re.MULTILINE), command


# --- in a process ---


def run(
    directory: Path, text: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    (directory / "cli_starts.py").write_text(text)
    command = [sys.executable, "-m", "kvqueue_fastapi", "worker", "cli_starts:app", *options]
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_type_that_nobody_handles_is_refused_with_those_there_are(directory: Path) -> None:
    ended = run(directory, STARTS.format(startup="pass"), "--types", "order.created,nobodys")

    assert ended.returncode == 2
    assert ended.stderr == (
        "kvqueue: Nobody here handles 'nobodys'. Handled are: order.created, mail.send.\n"
    )


def test_worker_handles_the_types_that_it_is_told_alone(directory: Path, bench: Bench) -> None:
    mail, other_mail, order = bench.send(("mail.send", 1), ("mail.send", 2), ("order.created", 3))
    environment = {"KVQUEUE_UNHANDLED": "fail"}

    ended = run(directory, STARTS.format(startup="pass"), "--types", "order.created", **environment)

    assert ended.returncode == 0, ended.stderr
    assert [message.id for message in bench.messages()] == [mail, other_mail]
    assert bench.message(order) is None
    assert bench.dead_letters() == []
    assert " listens at orders.db to order.created\n" in ended.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--types", "mail,send"], "mail,send"),
        (["--types", "mail,send", "--types", "mail,order.created"], "mail,send, mail, order.cre"),
        (["--types", "send, mail,send", "--types", "mail"], "send, mail"),
    ],
)
def test_type_with_a_comma_is_one_where_the_app_handles_it(
    directory: Path, options: list[str], said: str
) -> None:
    marks = "\n".join(f'@on_queue_message("{one}")' for one in ("mail,send", "mail", "send"))
    handlers = STARTS.replace('@on_queue_message("mail.send")', marks)

    ended = run(directory, handlers.format(startup=STOP), *options)

    assert ended.returncode == 0, ended.stderr
    assert f" listens at orders.db to {said}" in ended.stderr


def test_wrong_command_ends_without_a_traceback(directory: Path) -> None:
    ended = run(directory, "")

    assert ended.returncode == 2
    assert "The module 'cli_starts' has no 'app'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        (STARTS.format(startup="raise OSError('no pool')"), "OSError: no pool"),
        (
            STARTS.format(
                startup="from kvqueue_fastapi import PayloadError; raise PayloadError(1)"
            ),
            "kvqueue_fastapi.errors.PayloadError: 1",
        ),
        (
            "from kvqueue_fastapi import HandlerError\nraise HandlerError('twice')",
            "kvqueue_fastapi.errors.HandlerError: twice",
        ),
    ],
)
def test_error_in_the_apps_own_code_is_told_with_its_traceback(
    directory: Path, text: str, error: str
) -> None:
    ended = run(directory, text)

    assert ended.returncode == 1
    assert "cli_starts.py" in ended.stderr
    assert ended.stderr.endswith(f"{error}\n")


@pytest.mark.parametrize("code", ["0", "3", "'no'"])
def test_an_app_that_ends_the_process_is_told_in_a_line(directory: Path, code: str) -> None:
    ended = run(directory, f"import sys\nsys.exit({code})\n")

    assert ended.returncode == 1
    assert f"kvqueue: cli_starts:app has called sys.exit({code}) while it was" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "ends",
    [
        "import sys; sys.exit({code})",
        "import asyncio, sys; asyncio.get_running_loop().call_soon(sys.exit, {code})",
    ],
    ids=["startup", "later"],
)
@pytest.mark.parametrize("code", ["0", "7", "'no'"])
def test_an_app_that_ends_the_worker_is_told_in_a_line(
    directory: Path, ends: str, code: str
) -> None:
    ended = run(directory, STARTS.format(startup=ends.format(code=code)))

    assert ended.returncode == (code != "0")
    assert f"cli_starts:app has called sys.exit({code}) in the worker. " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "stops",
    [
        f"signal.signal(signal.SIGTERM, lambda *_: exit(0)); {STOP}; yield",
        f"{STOP}; yield; exit(0)",
    ],
    ids=["by its own handler", "at its end"],
)
def test_an_app_that_ends_a_worker_which_stops_has_stopped_it_well(
    directory: Path, stops: str
) -> None:
    ended = run(directory, STARTS.replace("{startup}\n    yield", stops))

    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_wiring_is_told_in_a_line(directory: Path) -> None:
    text = STARTS.format(startup="pass").replace("[pack, mail]", "[pack, pack, mail, int]")

    ended = run(directory, text)

    assert ended.returncode == 1
    assert re.fullmatch(r"kvqueue: Consumer int has no handler in int\..*\n", ended.stderr)


def test_ctrl_c_during_the_import_ends_it_without_a_traceback(directory: Path) -> None:
    # What a shell starts in the background begins with this signal ignored.
    heeds = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    ended = run(directory, f"{heeds}; os.kill(os.getpid(), signal.SIGINT)")

    assert (ended.returncode, ended.stderr) == (130, "")


def test_signal_during_the_start_stops_it_when_it_has_started(directory: Path) -> None:
    ended = run(directory, STARTS.format(startup=STOP))

    assert ended.returncode == 0
    lines = ended.stderr.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        re.sub(r"\d+", lines[0].split("Worker ")[1].split()[0], line)
        for line in (
            "INFO kvqueue_fastapi: Worker 0 listens at orders.db to order.created, mail.send",
            "INFO kvqueue_fastapi: Worker 0 stopped",
        )
    ]


def test_logging_that_the_app_has_set_up_is_left_alone(directory: Path) -> None:
    own = "logging.basicConfig(level='INFO', format='shop says %(message)s')"

    ended = run(directory, STARTS.format(startup=f"{own}; {STOP}"))

    assert re.fullmatch(
        r"shop says Worker \d+ listens .*\nshop says Worker \d+ stopped\n", ended.stderr
    )
