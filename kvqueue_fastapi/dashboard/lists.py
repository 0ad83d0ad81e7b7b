"""The lists: messages that wait or run, and dead letters."""

from dataclasses import replace
from typing import Any, Final

from starlette.responses import RedirectResponse, Response

from kvqueue_fastapi.dashboard.looks import Look
from kvqueue_fastapi.dashboard.visit import Visit
from kvqueue_fastapi.dashboard.wording import url_part
from kvqueue_fastapi.errors import InvalidOptionError
from kvqueue_fastapi.keeper import State, TypeCounts
from kvqueue_fastapi.pages import Page
from kvqueue_fastapi.search import Search, parse_search, written

PAGE: Final = 50
MOST_TYPES: Final = 100
STATES: Final = tuple(state for state in State if state is not State.DEAD)
_NOTHING: Final = Page((), None)


async def messages(visit: Visit) -> Response:
    """Answer with messages that wait or run, the oldest first."""
    look = await visit.look()
    asked = visit.query("state")
    problem, page = None, _NOTHING
    try:
        search = parse_search(visit.query("q"))
        if State.DEAD in {search.state, asked}:
            return _to_dead(visit, search)
        arguments = search.arguments()
        arguments["state"] = search.state or asked or None
        page = await visit.admin.messages(**arguments, cursor=_cursor(visit), limit=PAGE)
    except InvalidOptionError as error:
        problem = str(error)
    return await visit.page(
        "messages.html",
        400 if problem else 200,
        look=look,
        state=asked,
        states={state: sum(getattr(one, state) for one in look.counts) for state in STATES},
        **_listed(visit, page, problem),
    )


async def dead_letters(visit: Visit) -> Response:
    """Answer with dead letters, the newest first."""
    look = await visit.look()
    problem, page = None, _NOTHING
    try:
        arguments = parse_search(visit.query("q")).arguments(with_state=False)
        cursor = _cursor(visit)
        page = await visit.admin.dead_letters(**arguments, reverse=True, cursor=cursor, limit=PAGE)
    except InvalidOptionError as error:
        problem = str(error)
    return await visit.page(
        "dead.html",
        400 if problem else 200,
        look=look,
        types=most_dead(look),
        dead_types=sum(1 for counts in look.counts if counts.dead),
        **_listed(visit, page, problem),
    )


def most_dead(look: Look) -> list[TypeCounts]:
    """The types with the most dead letters, in type order."""
    dead = [counts for counts in look.counts if counts.dead]
    if len(dead) <= MOST_TYPES:
        return dead
    most = sorted(dead, key=lambda counts: -counts.dead)[:MOST_TYPES]
    return sorted(most, key=lambda counts: counts.type)


def _listed(visit: Visit, page: Page, problem: str | None) -> dict[str, Any]:
    return {
        "page": page,
        "next_cursor": page.next_cursor,
        "problem": problem,
        "q": visit.query("q"),
        "is_later": bool(visit.query("cursor")),
    }


def _cursor(visit: Visit) -> str | None:
    return visit.query("cursor") or None


def _to_dead(visit: Visit, search: Search) -> Response:
    """Lead to the dead letters, with all of the search but the state."""
    kept = written(replace(search, state=None))
    return RedirectResponse(f"{visit.root}dead?q={url_part(kept)}", 303)
