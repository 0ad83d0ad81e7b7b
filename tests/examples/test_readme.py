"""The README is true: its example runs and is well typed, its settings are the settings."""

import ast
import asyncio
import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import ASGITransport, AsyncClient

import kvqueue_fastapi
from kvqueue_fastapi import (
    AtomicOperation,
    Key,
    Kv,
    KvDep,
    KvQueueModule,
    KvQueueSettings,
    get_kv,
)
from kvqueue_fastapi.testing import drain

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PASTED = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first block, in a file of its own, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shop.py"
    path.write_text(PYTHON_BLOCKS[0])
    return path


def test_first_example_runs(
    example: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KVQUEUE_LISTEN", "false")
    spec = importlib.util.spec_from_file_location("shop", example)
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shop", shop)
    spec.loader.exec_module(shop)

    with TestClient(shop.app) as client:
        answer = client.post("/orders", json={"order_id": 7})
        deliveries = drain(client)

    assert (answer.status_code, answer.json()) == (202, {"message_id": 1})
    assert deliveries == 1
    assert capsys.readouterr().out == "order 7, attempt 1\n"
    assert (example.parent / "orders.db").exists()


def test_first_example_is_clean_under_a_strict_type_checker(example: Path) -> None:
    # The cache of the checkout only saves time; the configuration is mypy's own.
    cache = ROOT / ".mypy_cache" / "readme"
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), example.name],
        cwd=example.parent,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout == "Success: no issues found in 1 source file\n", checked.stderr


@pytest.mark.parametrize("block", PYTHON_BLOCKS[1:])
def test_how_to_is_python_and_names_what_there_is(block: str) -> None:
    flags = PASTED | ast.PyCF_ONLY_AST
    tree = compile(textwrap.dedent(block), "README.md", "exec", flags=flags)

    assert tree.body


def how_to(begins: str) -> str:
    (block,) = [block for block in PYTHON_BLOCKS if block.startswith(begins)]
    return str(block)


async def paste(block: str, names: dict[str, Any]) -> None:
    """Run a block as `python -m asyncio` does."""
    ending = eval(compile(block, "README.md", "exec", flags=PASTED), names)
    if inspect.isawaitable(ending):
        await ending


async def becomes(kv: Kv, key: Key, value: int) -> bool:
    async with asyncio.timeout(20), aclosing(kv.watch([key], int)) as states:
        async for (entry,) in states:
            if entry.value == value:
                return True
    return False


@pytest.fixture
async def pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, Any]]:
    """The names that are there after the first block about keys, which opens a store."""
    monkeypatch.chdir(tmp_path)
    said: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    names = {"said": said, "print": lambda *what: said.put_nowait(what)}
    await paste(how_to("from kvqueue_fastapi import Kv, KvU64"), names)
    yield names
    await names["kv"].close()


async def test_how_to_keep_keys_runs(pasted: dict[str, Any]) -> None:
    keys = [entry.key async for entry in pasted["kv"].list(prefix=())]

    assert keys == [("sessions", "c0ffee"), ("users", 1), ("visits",)]
    assert [pasted["ada"].value.name, pasted["nobody"].value] == ["Ada", None]
    assert pasted["said"].get_nowait() == (("users", 1), "Ada")
    assert pasted["users"].cursor == ""


async def test_how_to_keep_keys_in_an_app_runs(pasted: dict[str, Any]) -> None:
    app = FastAPI()
    app.dependency_overrides[get_kv] = lambda: pasted["kv"]

    await paste(how_to('@app.get("/users/'), {**pasted, "app": app, "KvDep": KvDep})
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as client:
        answers = [(await client.get(f"/users/{number}")).json() for number in (1, 2)]

    assert answers == [{"name": "Ada"}, None]


async def test_how_to_commit_runs(pasted: dict[str, Any]) -> None:
    kv: Kv = pasted["kv"]

    await paste(how_to("async def move("), pasted)

    balances = await kv.get_many([("balance", "ann"), ("balance", "bob"), ("moves",)], int)
    assert [entry.value for entry in balances] == [-5, 5, 1]
    assert [entry.value async for entry in kv.list(prefix=("log",))] == [5]


async def test_how_to_have_an_effect_once_runs(pasted: dict[str, Any]) -> None:
    kv: Kv = pasted["kv"]

    await paste(how_to("from kvqueue_fastapi import Message"), pasted)
    async with KvQueueModule("try.db", consumers=[pasted["count"]]).running() as queue:
        await queue.send_message("page.visited", "/")
        assert await becomes(kv, ("visits", "/"), 1)
    # With a nonce; it listens until the store closes.
    listening = asyncio.create_task(paste(how_to("from uuid import"), pasted))
    assert await becomes(kv, ("visits", "/"), 2)

    assert [entry async for entry in kv.list(prefix=("nonces",))] == []
    await kv.close()
    await listening


async def test_how_to_watch_runs(pasted: dict[str, Any]) -> None:
    kv: Kv = pasted["kv"]
    pasted["said"].get_nowait()

    watching = asyncio.create_task(paste(how_to("async for beta, sale"), pasted))
    at_first = await pasted["said"].get()
    await kv.set(("flags", "sale"), True)
    then = await pasted["said"].get()

    assert [at_first, then] == [(None, None), (None, True)]
    await kv.close()
    await watching


def test_how_to_do_without_an_app_runs(tmp_path: Path) -> None:
    (tmp_path / "mail.py").write_text(how_to("import asyncio\n"))

    command = [sys.executable, "-u", "mail.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        running.kill()

    assert said == "to ada\n"


def test_names_of_the_package_in_the_text_exist() -> None:
    named = set(
        re.findall(r"\b(?:Kv[A-Z]\w+|\w*(?:Error|RetryLater|Reject|OutgoingMessage))\b", README)
    )

    unknown = named - {*kvqueue_fastapi.__all__, "PermissionError"}
    assert unknown == set()


def test_methods_of_keys_in_the_text_exist() -> None:
    called = set(re.findall(r"\b[kK]v\.(\w+)\(", README))
    chained = set(re.findall(r"^ +\.(\w+)\(", README, re.MULTILINE))

    assert called - set(dir(Kv)) == set()
    assert chained - set(dir(AtomicOperation)) == set()
    assert {"open", "get", "list", "watch", "atomic", "enqueue", "listen_queue"} <= called


def test_linked_files_exist() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_tests_that_show_a_fault_exist() -> None:
    named = set(re.findall(r"`(test_\w+)` \|$", README, re.MULTILINE))
    tests = (ROOT / "tests").rglob("test_*.py")
    there = {name for file in tests for name in re.findall(r"def (test_\w+)", file.read_text())}

    assert len(named) > 30
    assert named - there == set()


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(KVQUEUE_\w+)` \| (\S+) \| .+ \|$", README, re.MULTILINE)

    assert [(name, variable) for name, variable, _ in rows] == [
        (name, f"KVQUEUE_{name.upper()}") for name in KvQueueSettings.model_fields
    ]
    # What the table shows as a default is read back as the environment would be.
    shown = {name: default.strip("`") for name, _, default in rows if default != "none"}
    assert KvQueueSettings.model_validate_strings(shown) == KvQueueSettings()
    unset = [name for name, _, default in rows if default == "none"]
    assert [KvQueueSettings.model_fields[name].default for name in unset] == [None] * len(unset)


def test_command_of_the_tests_is_where_the_checks_look_for_it() -> None:
    after = README.split("<!-- tests -->\n")[1]

    assert after.startswith("```sh\npython3 -m venv .venv\n")
    assert ".venv/bin/python -m pytest -n 6 --dist worksteal\n```\n" in after
