"""What can be seen of the processes that listen."""

from collections.abc import Iterator, Sequence
from typing import Final

from kvqueue_fastapi.cli.symptoms.findings import Finding, problem, warning
from kvqueue_fastapi.cli.symptoms.outside import WRONG_CLOCK_S
from kvqueue_fastapi.cli.texts import counted, duration
from kvqueue_fastapi.keeper import BLOCKED_LOOP_MS, ListenerRecord
from kvqueue_fastapi.store.surveys import StoreSurvey

MANY_ON_SQLITE: Final = 16
"""Each looks 50 times a second whether the file has changed, and all share one lock to write."""
OWN_CONNECTIONS: Final = 5
"""Of a process on PostgreSQL, beside its pool."""
FULL_SHARE: Final = 0.8
UNSEEN_S: Final = 90.0
"""Three times as long as an idle listener is silent."""
TOO_LATE_MS: Final = 1_000


def of_listeners(
    listeners: Sequence[ListenerRecord],
    survey: StoreSurvey,
    *,
    pool_size: int,
    version: str,
    now_ms: int,
) -> Iterator[Finding]:
    """What is wrong with them, one by one and together.

    Args:
        listeners: all that there are.
        survey: of their store.
        pool_size: the setting `postgres_pool_size`, taken as theirs.
        version: of the package in this process.
        now_ms: by the engine's clock.
    """
    dead = [one for one in listeners if not one.is_alive]
    listeners = [one for one in listeners if one.is_alive]
    if not listeners:
        yield warning("Nobody listens.", "Start the app, or kvqueue worker module:app.")
    for one in dead:
        yield from _of_dead(one, is_last=not listeners)
    for one in listeners:
        yield from _of_one(one, now_ms)
    yield from _of_many(len({(one.host, one.pid) for one in listeners}), survey, pool_size)
    hosts = sorted({one.host for one in listeners})
    if survey.engine == "SQLite" and len(hosts) > 1:
        yield warning(
            f"Several hosts listen on one file: {', '.join(hosts)}.",
            "If these are containers of one machine, all is well; else use PostgreSQL.",
        )
    versions = sorted({one.version for one in listeners if one.version} | {version})
    if len(versions) > 1:
        yield warning(
            f"Listeners and this command are of several versions: {', '.join(versions)}.",
            "Fine during a deploy. After it, restart what is older; see kvqueue listeners.",
        )


def _of_dead(one: ListenerRecord, *, is_last: bool) -> Iterator[Finding]:
    if not one.leases:
        return
    who = f"The listener of process {one.pid} on {one.host}"
    held = f"{who} died with {counted(one.leases, 'message')} in hand."
    if is_last:
        yield problem(held, "Start the app, or kvqueue worker module:app: it takes over at once.")
    else:
        yield warning(held, "Another one takes over at once. Look again, and why it died.")


def _of_one(one: ListenerRecord, now_ms: int) -> Iterator[Finding]:
    who = f"The listener of process {one.pid} on {one.host}"
    if one.loop_lag_ms >= TOO_LATE_MS:
        yield problem(f"{who} {_late(one)}", _UNBLOCK)
    elif one.loop_lag_ms >= BLOCKED_LOOP_MS:
        yield warning(f"{who} {_late(one)}", _UNBLOCK)
    silent_s = (now_ms - one.seen_ms) / 1000
    if one.seen_ms and silent_s > UNSEEN_S:
        yield problem(
            f"{who} was last seen {duration(silent_s)} ago.",
            "Look whether it is stopped (SIGSTOP, a paused container) or cut off; if it hangs, "
            "end it: its messages go to others.",
        )
    if max(one.since_ms, one.seen_ms) - now_ms > WRONG_CLOCK_S * 1000:
        yield warning(
            f"{who} was seen at a time that has not come yet.",
            "Look at the clocks: one was set back.",
        )


def _of_many(processes: int, survey: StoreSurvey, pool_size: int) -> Iterator[Finding]:
    if survey.engine == "SQLite" and processes > MANY_ON_SQLITE:
        yield warning(
            f"{processes} processes listen on one SQLite file.",
            "Let fewer processes listen, each with more concurrency, and let the others only "
            "send: KVQUEUE_LISTEN=false.",
        )
    most = survey.most_connections
    used = processes * (pool_size + OWN_CONNECTIONS)
    if most is not None and used > most * FULL_SHARE:
        yield warning(
            f"Processes that listen may use {used} connections, of {most} that the server takes.",
            "Lower KVQUEUE_POSTGRES_POOL_SIZE, let fewer processes listen, or raise "
            "max_connections.",
        )


def _late(one: ListenerRecord) -> str:
    return f"had its event loop blocked for {one.loop_lag_ms / 1000:.1f} s within a minute."


_UNBLOCK: Final = (
    "Look for blocking calls in its handlers and routes (PYTHONASYNCIODEBUG=1 names them); write "
    "such a handler with `def`, which runs it in a thread."
)
