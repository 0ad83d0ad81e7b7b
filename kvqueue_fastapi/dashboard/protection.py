"""What keeps strangers from acting in a keeper's name: headers, origins, a token sent twice."""

import re
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

COOKIE: Final = "kvqueue_dashboard"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not "no-referrer": with that, browsers send `Origin: null` even to the page's own origin.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


def token_of(request: Request) -> str:
    """The token of this browser, or a new one.

    The browser carries it, so that any process of the app can check it.
    """
    return _sent_token(request) or secrets.token_urlsafe(32)


def keep_token(response: Response, request: Request, token: str) -> None:
    """Have the browser keep its token."""
    if token != _sent_token(request):
        set_cookie(response, request, COOKIE, token)


def set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    """Have the browser keep something that no script and no other site sees."""
    # Its path is the whole site, because behind a proxy the app may not know its own.
    is_secure = request.url.scheme == "https"
    response.set_cookie(name, value, path="/", secure=is_secure, httponly=True, samesite="strict")


def forgery(request: Request, token: str) -> str | None:
    """Why a request may come from another site, and the remedy; None: it is the keeper's own.

    Args:
        request: with its headers.
        token: what its form has as token.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None and site != "same-origin":
        return f"the browser says that it comes from elsewhere ({site})"
    if site is None and origin is None:
        return "it has neither Sec-Fetch-Site nor Origin. Use a browser, or send Origin"
    if site is None and _host(origin or "") != request.headers.get("host"):
        return (
            f"it comes from {origin}, and this host is {request.headers.get('host')}. Behind a "
            "proxy, have it pass the Host header on"
        )
    sent = _sent_token(request)
    if sent is None or not secrets.compare_digest(sent.encode(), token.encode("utf-8", "replace")):
        return "its token is not that of this browser. Allow cookies, load the page again"
    return None


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _sent_token(request: Request) -> str | None:
    token = request.cookies.get(COOKIE, "")
    return token if _TOKEN.fullmatch(token) else None
