"""The README is true: its example runs and is well typed, its settings are the settings."""

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

import kvqueue_fastapi
from kvqueue_fastapi import KvQueueSettings
from kvqueue_fastapi.testing import drain

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


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
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(textwrap.dedent(block), "README.md", "exec", flags=flags)

    assert tree.body


def test_names_of_the_package_in_the_text_exist() -> None:
    named = set(
        re.findall(r"\b(?:KvQueue\w+|\w*(?:Error|RetryLater|Reject|OutgoingMessage))\b", README)
    )

    unknown = named - {*kvqueue_fastapi.__all__, "PermissionError"}
    assert unknown == set()


def test_linked_files_exist() -> None:
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", README)

    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


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
    assert ".venv/bin/python -m pytest -n 2\n```\n" in after
