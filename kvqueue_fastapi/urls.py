"""Where a store is, as it may be shown: without the password, however it was written."""

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""In the place of a password."""

# Up to the last @, because a password may hold one that nobody has quoted.
_BEHIND_SLASHES: Final = re.compile(r"(?s)((?:^|[:;])[/\\]{1,2}[^/:]*:).*(?=@)")
_OF_A_DRIVER: Final = re.compile(r"(?s)^(?!sqlite:)([\w+.-]+:[/\\]{3,}[^/\\:]*:).*(?=@)")
_WITHOUT_SLASHES: Final = re.compile(
    r"""(?s)^([\s"']*(?:\w+//)?(?:[^/\\:@]{2,}:(?!//|\\\\)|[^/\\:@]:(?![/\\]))).*(?=@)"""
)
_AUTHORITY: Final = re.compile(r"(?<=://)[^/?#@\[\s]+(?=[/?#\s]|$)")
_NO_PORT: Final = re.compile(r":(?!\d*(?:,|$))[^,]*")
_PARAMETER: Final = re.compile(r"([?&;])([^=?&#;]+)=[^&#;]*(?:;[^&#;=]*(?=[&#;]|$))*")
_DSN_PASSWORD: Final = re.compile(
    r"(?i)(?:^|(?<=\s))((?:ssl)?pass(?:word|wd)?|pwd)(\s*=\s*)('(?:[^'\\]|\\.)*(?:'|$)|[^\s']\S*)"
)


def shown_url(url: str) -> str:
    """A store's URL without its password, however odd: as a driver takes it, or nobody does.

    What is hidden in a path that looks like one does no harm.
    """
    for pattern in (_BEHIND_SLASHES, _OF_A_DRIVER, _WITHOUT_SLASHES):
        if found := pattern.search(url):
            url = f"{url[: found.start()]}{found[1]}{HIDDEN}{url[found.end() :]}"
            break
    else:
        # Cut off before its @, a password stands where a port would.
        url = _AUTHORITY.sub(lambda found: _NO_PORT.sub(f":{HIDDEN}", found[0]), url, count=1)
    if "://" in url:
        return _PARAMETER.sub(_without_password, url)
    return _DSN_PASSWORD.sub(rf"\1\2{HIDDEN}", url)


def has_password(url: str) -> bool:
    """Whether there is something to hide in it."""
    return shown_url(url) != url


def _without_password(parameter: re.Match[str]) -> str:
    name = unquote(parameter[2]).lower()
    is_secret = "pass" in name or "pwd" in name
    return f"{parameter[1]}{parameter[2]}={HIDDEN}" if is_secret else parameter[0]
