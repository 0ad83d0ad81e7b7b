"""The units fit the program: its signals, its times, its folders."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from kvqueue_fastapi import KvQueueSettings
from tests.deploy.units import environment, unit

FOLDER = Path(__file__).parents[2] / "examples" / "deploy" / "systemd"
UNITS = {path.name: unit(path) for path in FOLDER.iterdir()}
WEB, WORKER = UNITS["shop-web.service"], UNITS["shop-worker.service"]
BACKUP, TIMER = UNITS["shop-backup.service"], UNITS["shop-backup.timer"]


def test_every_unit_is_looked_at() -> None:
    assert set(UNITS) == {
        "shop-web.service",
        "shop-worker.service",
        "shop-backup.service",
        "shop-backup.timer",
    }


@pytest.mark.parametrize("name", ["shop-web.service", "shop-worker.service"])
def test_a_service_is_told_to_stop_once_and_comes_back(name: str) -> None:
    service = UNITS[name]["Service"]

    assert service["KillSignal"] == ["SIGTERM"]
    assert service["KillMode"] == ["mixed"]
    assert service["Restart"] == ["always"]
    assert UNITS[name]["Install"]["WantedBy"] == ["multi-user.target"]


def test_the_worker_has_longer_to_stop_than_its_handlers() -> None:
    set_here = float(environment(WORKER)["KVQUEUE_SHUTDOWN_TIMEOUT_S"])

    assert float(WORKER["Service"]["TimeoutStopSec"][0]) >= set_here + 5


def test_the_web_process_has_longer_to_stop_than_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KVQUEUE_SHUTDOWN_TIMEOUT_S", raising=False)
    configuration = runpy.run_path(str(FOLDER.parent / "gunicorn.conf.py"))

    graceful_s = configuration["graceful_timeout"]

    assert graceful_s > KvQueueSettings().shutdown_timeout_s + configuration["REQUESTS_S"]
    assert float(WEB["Service"]["TimeoutStopSec"][0]) > graceful_s
    assert configuration["preload_app"] is False


def test_both_have_one_store_in_a_folder_that_they_may_write() -> None:
    for one in (WEB, WORKER):
        folder = Path("/var/lib", one["Service"]["StateDirectory"][0])
        url = Path(environment(one)["KVQUEUE_URL"])

        assert url.parent == folder
        assert url.is_absolute()
        assert one["Service"]["ProtectSystem"] == ["strict"]
    assert environment(WEB)["KVQUEUE_URL"] == environment(WORKER)["KVQUEUE_URL"]
    assert WEB["Service"]["User"] == WORKER["Service"]["User"] == BACKUP["Service"]["User"]


def test_every_setting_in_the_environment_is_one() -> None:
    for one in (WEB, WORKER, BACKUP):
        names = [name for name in environment(one) if name.startswith("KVQUEUE_")]
        values = {name.removeprefix("KVQUEUE_").lower(): environment(one)[name] for name in names}

        assert KvQueueSettings.model_validate(values)


def test_the_backup_is_of_the_store_and_lands_where_it_may() -> None:
    (command,) = BACKUP["Service"]["ExecStart"]
    folders = BACKUP["Service"]["StateDirectory"][0].split()

    (target,) = re.findall(r"kvqueue backup \"(/[\w/.-]+)", command)
    assert environment(BACKUP)["KVQUEUE_URL"] == environment(WORKER)["KVQUEUE_URL"]
    assert Path(target).parent == Path("/var/lib/shop-backups")
    assert folders == ["shop", "shop-backups"]
    assert TIMER["Timer"]["OnCalendar"] == ["hourly"]


def test_backups_that_were_broken_off_are_removed_and_no_others(tmp_path: Path) -> None:
    (command,) = BACKUP["Service"]["ExecStartPre"]
    for name in ("queue-1.db", "queue-2.db.unfinished", "queue-2.db.unfinished-journal"):
        (tmp_path / name).touch()

    program, folder, *rest = command.split()
    subprocess.run([program, tmp_path, *rest], check=True)

    assert folder == "/var/lib/shop-backups"
    assert [path.name for path in tmp_path.iterdir()] == ["queue-1.db"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for path in FOLDER.iterdir():
        # what is installed where the shop is, and not here
        text = re.sub(
            r"/opt/shop/\.venv/bin/(gunicorn|python|kvqueue)", "/bin/true", path.read_text()
        )
        (tmp_path / path.name).write_text(text.replace("After=network-online.target\n", ""))

    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    about_ours = [line for line in found.stderr.splitlines() if "shop-" in line]
    assert about_ours == []
