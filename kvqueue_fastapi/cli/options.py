"""Options that many commands have."""

from typing import Annotated, Final, TypeAlias

import typer

_STORE: Final = "Store"

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Where the store is: a path or a postgresql:// URL. A password is better kept in "
        "KVQUEUE_URL, because others may see command lines. "
        "[dim]\\[default: KVQUEUE_URL, or kvqueue.db][/]",
        rich_help_panel=_STORE,
    ),
]
App: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--app",
        metavar="module:app",
        envvar="KVQUEUE_APP",
        help="The app of the queue: its store, its payload models, its redact.",
        rich_help_panel=_STORE,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="For programs: one JSON object a line.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit: TypeAlias = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")]
Cursor: TypeAlias = Annotated[
    str | None, typer.Option("--cursor", help="Where to go on, as the last list said.")
]
Newest: TypeAlias = Annotated[bool, typer.Option("--newest", help="The newest first.")]
Search: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SEARCH",
        help="Such as type:order.* key:42 error:Timeout, and words of the payload.",
        show_default=False,
    ),
]
