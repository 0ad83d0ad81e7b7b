"""What the package must never do, and who may read its files."""

import ast
import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import BaseModel, SecretStr, TypeAdapter, field_serializer

import kvqueue_fastapi
from kvqueue_fastapi.codec import decode_payload, encode_payload
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.store.postgres import statements
from kvqueue_fastapi.store.postgres.connection import in_schema, quoted
from kvqueue_fastapi.store.sqlite.connection import Patience, connect
from tests.contract.harness import Seen, running

PACKAGE: Final = Path(kvqueue_fastapi.__file__).parent
UNSAFE_CALLS: Final = {"eval", "exec", "compile", "__import__"}
UNSAFE_MODULES: Final = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml",
    "code", "codeop", "runpy", "ctypes", "subprocess",
}  # fmt: skip
UNSAFE_NAMES: Final = {"system", "popen", "import_module", "enable_load_extension"}
COMMANDS: Final = {("cli/apps.py", "import_module")}  # what its caller names on the command line

STATEMENTS: Final = (
    "store/sqlite/statements.py",
    "store/sqlite/copy_statements.py",
    "store/postgres/statements.py",
    "store/postgres/copy_statements.py",
)
PRAGMAS: Final = {
    "store/sqlite/connection.py",
    "store/sqlite/database_thread.py",
    "store/sqlite/reader.py",
    "store/sqlite/sweeps.py",
}
SQL: Final = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|WITH|PRAGMA|CREATE|DROP|ALTER|ATTACH|VACUUM|BEGIN|"
    r"COMMIT|ROLLBACK|SAVEPOINT|RELEASE)(?![\w.,:-])"
)
NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
EXECUTES: Final = {
    "execute",
    "executemany",
    "executescript",
    "execute_fetchall",
    "fetch_all",
    "fetch",
}
COMPOSES: Final = {"format", "join", "replace", "format_map", "substitute"}
CONSTANT: Final = re.compile(r"_?[A-Z][A-Z0-9_]*")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module, by its path within the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in PACKAGE.rglob("*.py")
    }


def nodes(*kinds: type[Any]) -> Iterator[tuple[str, Any]]:
    for name, tree in trees().items():
        yield from ((name, node) for node in ast.walk(tree) if isinstance(node, kinds))


def test_nothing_in_the_package_makes_objects_or_code_of_data() -> None:
    modules = {node.module or "" for _, node in nodes(ast.ImportFrom)}
    modules |= {alias.name for _, node in nodes(ast.Import) for alias in node.names}
    names = {node.id for _, node in nodes(ast.Name)}
    attributes = {(name, node.attr) for name, node in nodes(ast.Attribute)} - COMMANDS

    assert len(trees()) > 60
    assert not {module.partition(".")[0] for module in modules} & UNSAFE_MODULES
    assert not names & UNSAFE_CALLS
    assert not {attribute for _, attribute in attributes} & UNSAFE_NAMES


def test_sql_is_written_in_one_place_and_pragmas_in_four() -> None:
    prose = {id(node.value) for _, node in nodes(ast.Expr)}
    found = {
        (name, node.value.split()[0])
        for name, node in nodes(ast.Constant)
        if isinstance(node.value, str) and SQL.match(node.value) and id(node) not in prose
    }

    elsewhere = {place for place in found if place[0] not in STATEMENTS}
    assert elsewhere == {(name, "PRAGMA") for name in PRAGMAS}
    assert len(found) > len(elsewhere)


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_are_complete_before_any_value_is_known(name: str) -> None:
    tree = trees()[name]
    makers = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id in makers]

    assert {type(node) for node in tree.body[2:] if not is_docstring(node)} <= {
        ast.AnnAssign,
        ast.FunctionDef,
    }
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    assert all(maker.startswith("_") for maker in makers)
    assert all(isinstance(one, ast.Constant) for node in made for one in node.args)


def test_only_the_name_of_a_schema_is_put_into_a_statement() -> None:
    settings = KvQueueSettings.model_fields["postgres_schema"]

    assert in_schema(statements.LAST_VERSION, quoted('a"b')).endswith(' "a""b".kvqueue_versions')
    assert any(getattr(one, "pattern", "") == NAME for one in settings.metadata)


def is_sql(node: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) and SQL.match(part.value)
        for part in ast.walk(node)
    )


def attribute(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def is_constant(node: ast.AST) -> bool:
    """A name of a module's own, or a part of one."""
    if isinstance(node, ast.Subscript):
        return is_constant(node.value)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return isinstance(node, ast.Constant) or CONSTANT.fullmatch(name) is not None


def test_no_sql_is_put_together_from_values() -> None:
    for name, node in nodes(ast.JoinedStr):
        if name not in STATEMENTS and is_sql(node.values[0]):
            filled = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            assert all(map(is_constant, filled)), f"{name}:{node.lineno}"
    for name, node in nodes(ast.BinOp, ast.Call):
        is_whole = isinstance(node, ast.Call) and attribute(node) not in COMPOSES
        assert name in STATEMENTS or is_whole or not is_sql(node), f"{name}:{node.lineno}"


def test_what_is_executed_is_not_made_in_its_call() -> None:
    calls = [(name, node) for name, node in nodes(ast.Call) if attribute(node) in EXECUTES]

    assert len(calls) > 40
    whole = (ast.Constant, ast.JoinedStr, ast.Name, ast.Attribute, ast.Subscript)
    for name, node in calls:
        assert isinstance(node.args[0], whole), f"{name}:{node.lineno}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(directory: Path) -> dict[str, int]:
    """By what follows the database's name."""
    return {path.name.partition("-")[2][:8]: mode(path) for path in directory.iterdir()}


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_all_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    seen = Seen()
    async with running(tmp_path, callbacks={"n": seen.take}) as bench:
        await bench.queue.send_message("n", 1)
        await seen.reach(1)
        files = modes(tmp_path)

    assert files == {"": 0o600, "wal": 0o600, "shm": 0o600, "listener": 0o600}


@pytest.mark.usefixtures("umask")
def test_file_behind_a_dangling_link_is_for_its_owner_only(tmp_path: Path) -> None:
    link, target = tmp_path / "link.db", tmp_path / "target.db"
    link.symlink_to(target)

    connect(str(link), synchronous="FULL", patience=Patience(1)).close()

    assert mode(target) == 0o600


async def test_rights_of_a_file_that_is_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "q.db").touch()
    (tmp_path / "q.db").chmod(0o660)

    async with running(tmp_path, listen=False) as bench:
        await bench.queue.send_message("n", 1)
        files = modes(tmp_path)

    assert files == {"": 0o660, "wal": 0o660, "shm": 0o660}


class Login(BaseModel):
    user: str
    password: SecretStr


class WholeLogin(Login):
    @field_serializer("password", when_used="json")
    def reveal(self, password: SecretStr) -> str:
        return password.get_secret_value()


def test_secret_str_is_stored_as_asterisks_and_whole_where_its_model_says_so() -> None:
    hidden = encode_payload(Login(user="ada", password=SecretStr("c0ffee")), 1_000)
    whole = encode_payload(WholeLogin(user="ada", password=SecretStr("c0ffee")), 1_000)

    assert hidden == '{"user":"ada","password":"**********"}'
    assert whole == '{"user":"ada","password":"c0ffee"}'
    read: Login = decode_payload(whole, TypeAdapter(Login))
    assert read.password.get_secret_value() == "c0ffee"
    assert "c0ffee" not in repr(read)
