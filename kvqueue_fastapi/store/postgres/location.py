"""Where a URL leads."""

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

SCHEMES: Final = ("postgresql://", "postgres://")
_QUERY_SECRET: Final = re.compile(r"(?i)(password|sslpassword)=[^&]*")


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL server."""
    return url.startswith(SCHEMES)


def shown(url: str) -> str:
    """The URL without its password, for errors and logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "postgresql://…"
    netloc = parts.netloc
    if "@" in netloc:
        user, _, hosts = netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}@{hosts}"
    query = _QUERY_SECRET.sub(r"\1=…", parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
