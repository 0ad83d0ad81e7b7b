"""What the figures were measured on."""

import os
import platform
import sqlite3
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from tests.benchmarks import peers

PACKAGES = (
    "fastapi", "injector", "uvicorn", "aiosqlite", "pydantic", "anyio", "starlette",
    "uvloop", "httptools", *peers.PACKAGES,
)  # fmt: skip
"""What takes part in some row, where it is installed."""
SYNCS_S = 0.5


def describe() -> dict[str, str]:
    """Facts about the machine by their name."""
    return {
        "machine": f"{os.cpu_count()} cores ({_cpu_model()})",
        "system": f"{_system()}, {platform.machine()}",
        "disk": f"{_file_system(tempfile.gettempdir())}, {_synced_appends():,.0f} synced appends "
        "of 4 KiB a second",
        "Python": sys.version.split()[0],
        "SQLite": f"{sqlite3.sqlite_version}, WAL",
        "packages": ", ".join(_versions()),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else "unknown CPU"


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _file_system(path: str) -> str:
    """The type of the file system that a path lies on."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown file system"
    real = Path(path).resolve()
    above = [(point, kind) for point, kind in mounts if real.is_relative_to(point)]
    return max(above, key=lambda mount: len(mount[0]), default=("", "unknown file system"))[1]


def _synced_appends() -> float:
    """How often a second the disk takes 4 KiB more for good.

    A write-ahead log gets there more often, as soon as it is written anew from its start.
    """
    sync = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile(buffering=0) as file:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SYNCS_S:
            file.write(b"\0" * 4096)
            sync(file.fileno())
            count += 1
        return count / (time.perf_counter() - began)


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
