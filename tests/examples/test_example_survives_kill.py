"""The demonstration ends with nothing lost by the queue, and real numbers for the comparison."""

from collections.abc import Callable


def test_shop_that_is_killed_twice_loses_no_order(run_example: Callable[[str], list[str]]) -> None:
    lines = run_example("survives_kill")

    *events, head, queue, tasks = lines
    assert sum("SIGKILL after" in event for event in events) == 4
    assert head.split() == ["sent", "handled", "twice", "lost"]
    assert numbers(queue, "KvQueue") == [200, 200, 0]
    sent, handled, lost = numbers(tasks, "BackgroundTasks")
    assert sent == handled + lost == 200
    assert lost > 0


def numbers(row: str, name: str) -> list[int]:
    """What was sent, handled and lost, from a row of the last table."""
    first, bar, sent, handled, _twice, lost = row.split()
    assert (first, len(bar)) == (name, 24)
    return [int(sent), int(handled), int(lost)]
