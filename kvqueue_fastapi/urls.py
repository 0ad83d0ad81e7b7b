"""Where a store is, as it may be shown: without the password, however it was written."""

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""In the place of a password."""
_SQLITE: Final = "sqlite:///"
_BEHIND_SLASHES: Final = re.compile(r"(?is)([a-z][\w+.-]*:[/\\]+[^/\\:]*:).*(?=@)")
_WITHOUT_SCHEME: Final = re.compile(
    r"(?is)((?:[a-z]\w*//|//|[a-z][\w+.-]*:(?=[^/\\:]+:))?[^/\\:]+:)(?![/\\]).*(?=@)"
)
"""As somebody writes who forgot it, or a part of it."""
_AUTHORITY: Final = re.compile(r"(?i)([a-z][\w+.-]*://)([^/?#@\[]*)(?=[/?#]|$)")
_NO_PORT: Final = re.compile(r":(?!\d*(?:,|$))[^,]*")
_FIELD: Final = re.compile(
    r"(?:^|(?<=[\s?&#;]))([^\s=?&#;]++)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^&#\s]*)"
)


def shown_url(url: str) -> str:
    """A store's URL without its password.

    Of what stands before an @, everything goes from the first colon to the last @, because a
    password may hold one that nobody has quoted. What is hidden in a path that looks like it
    does no harm.
    """
    return _FIELD.sub(_without_password, _without_userinfo(url))


def has_password(url: str) -> bool:
    """Whether there is something to hide in it."""
    return shown_url(url) != url


def _without_userinfo(url: str) -> str:
    if url.startswith(_SQLITE):
        return url
    for pattern in (_BEHIND_SLASHES, _WITHOUT_SCHEME):
        if found := pattern.match(url):
            return f"{found[1]}{HIDDEN}{url[found.end() :]}"
    # Cut off before its @, a password stands where a port would.
    if found := _AUTHORITY.match(url):
        return f"{found[1]}{_NO_PORT.sub(f':{HIDDEN}', found[2])}{url[found.end() :]}"
    return url


def _without_password(field: re.Match[str]) -> str:
    is_secret = "pass" in unquote(field[1]).lower()
    return f"{field[1]}{field[2]}{HIDDEN}" if is_secret else field[0]
