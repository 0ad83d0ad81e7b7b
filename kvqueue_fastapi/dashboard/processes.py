"""The processes that listen, and the settings of this one."""

import os
import platform
import socket
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.keeper import BLOCKED_LOOP_MS
from kvqueue_fastapi.settings import KvQueueSettings
from kvqueue_fastapi.urls import shown_url
from kvqueue_fastapi.version import __version__

_UNITS: Final = {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes"}


class Setting(NamedTuple):
    """One setting as it is shown."""

    name: str
    value: str
    unit: str
    description: str
    is_default: bool


async def listeners(visit: Visit) -> Response:
    """Answer with the processes that listen."""
    return await visit.page(
        "listeners.html",
        look=await visit.look(),
        own=(socket.gethostname(), os.getpid()),
        blocked_ms=BLOCKED_LOOP_MS,
    )


async def settings(visit: Visit) -> Response:
    """Answer with what the queue of this process runs by."""
    given = visit.runtime.settings
    # Only ours: an app's own class may have its secrets beside them.
    fields = KvQueueSettings.model_fields.items()
    shown = [
        Setting(
            name,
            _shown(getattr(given, name)),
            next((unit for end, unit in _UNITS.items() if name.endswith(end)), ""),
            field.description or "",
            getattr(given, name) == field.default,
        )
        for name, field in fields
    ]
    facts = {
        "kvqueue_fastapi": __version__,
        "Python": platform.python_version(),
        "Process": f"{os.getpid()} on {socket.gethostname()}",
        "Handlers in this process": ", ".join(sorted(visit.runtime.types)) or "none",
    }
    return await visit.page("settings.html", look=await visit.look(), settings=shown, facts=facts)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"{step:g}" for step in value) or "none"
    return f"{value:g}" if isinstance(value, float) else shown_url(str(value))
