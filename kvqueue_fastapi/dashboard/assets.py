"""The style sheet, the scripts and the icon, as they are shipped.

htmx and its extension are the files of its npm package (`npm pack htmx.org@4.0.1`), unchanged.
"""

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kvqueue_fastapi.dashboard.protection import HEADERS

_TYPES: Final = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "htmx-4.0.1.min.js": "text/javascript; charset=utf-8",
    "hx-sse-4.0.1.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_KEEP: Final = "private, max-age=31536000, immutable"


async def asset(request: Request) -> Response:
    """Answer with one of the shipped files."""
    name = request.path_params["name"]
    if name not in _TYPES:
        raise HTTPException(404)
    # Its URL changes with its content; see `versioned`.
    headers = {**HEADERS, "Cache-Control": _KEEP}
    return Response(_content(name), headers=headers, media_type=_TYPES[name])


@cache
def versioned(name: str) -> str:
    """The path of an asset, with what changes when its content does."""
    return f"static/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:12]}"


@cache
def _content(name: str) -> bytes:
    return files("kvqueue_fastapi.dashboard").joinpath("static", name).read_bytes()
