"""Who did what: a line in the log for each action."""

import json
import logging
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from starlette.requests import Request

log = logging.getLogger("kvqueue_fastapi.audit")

_NAMES: Final = ("display_name", "username", "name", "email", "id")
_MAX_CHARACTERS: Final = 200
_MAX_IDS: Final = 100


def tell(
    request: Request,
    action: str,
    *,
    ids: Sequence[int] = (),
    message_type: str | None = None,
    count: int | None = None,
    problem: str | None = None,
    stage: str | None = None,
    died_by_ms: int | None = None,
) -> None:
    """Log an action, also one that failed or was refused.

    Args:
        request: with the client and the user.
        action: such as "discard".
        ids: the messages that it was asked for.
        message_type: the message type that it was asked for.
        count: how many messages or types it changed, also before a problem; None: not yet known.
        problem: why it changed nothing, or no more than that.
        stage: "begun" for one that takes a while, of which another line tells the end.
        died_by_ms: it was asked for those alone that had died by then, in UTC milliseconds.
    """
    client = request.client.host if request.client else None
    facts = {
        "action": action,
        "ids": list(ids[:_MAX_IDS]),
        "message_type": message_type,
        "died_by_ms": died_by_ms,
        "stage": stage,
        "count": count,
        "client": client,
        "user": _user(request),
        "problem": problem,
    }
    given = {name: value for name, value in facts.items() if value not in (None, [])}
    # As JSON, so that no type or name can begin a line of its own.
    text = " ".join(f"{name}={json.dumps(value)}" for name, value in given.items())
    log.log(logging.WARNING if problem else logging.INFO, "%s", text, extra={"audit": given})


def _user(request: Request) -> str | None:
    user: Any = getattr(request.state, "user", None) or request.scope.get("user")
    if user is None:
        return None
    values: list[Any]
    if isinstance(user, str | int | UUID):
        values = [user]
    elif isinstance(user, dict):
        values = [user.get(name) for name in _NAMES]
    else:
        values = [_attribute(user, name) for name in _NAMES]
    # Any other object may show more of itself than a name.
    names = (str(value) for value in values if isinstance(value, str | int | UUID))
    return next(filter(None, names), type(user).__name__)[:_MAX_CHARACTERS]


def _attribute(user: Any, name: str) -> Any:
    try:
        return getattr(user, name, None)
    except Exception:  # noqa: BLE001 because it is the app's own object, and the action goes on
        return None
