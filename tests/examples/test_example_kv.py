"""Each example of keys and values runs to its end and shows what it says."""

import re
from collections.abc import Callable

Run = Callable[[str], list[str]]


def test_event_that_is_delivered_four_times_is_handled_once(run_example: Run) -> None:
    lines = run_example("webhook_receiver")

    # A handler may begin while the route is still at its answer.
    handled = [line for line in lines if line.startswith("invoice")]
    assert handled == [f"invoice {n} is paid: {n}00 cents" for n in (1, 2, 3, 4)]
    received = [line for line in lines if line not in handled]
    assert received[:4] == [
        f"evt_{n}: 3 deliveries at once, 1 of them new, messages [{n}]" for n in (1, 2, 3, 4)
    ]
    assert received[4:] == ["after a restart still known: evt_1, evt_2, evt_3, evt_4"]


def test_count_is_right_although_handlers_are_killed_and_raise(run_example: Run) -> None:
    lines = run_example("exactly_once_counter")

    counts = [re.fullmatch(r"9 visits, counted (.+): (\d+)", line) for line in lines[2:]]
    assert [match and match[1] for match in counts] == [
        "with the message",
        "with a nonce",
        "with neither",
    ]
    once, once_as_well, too_many = [int(match[2]) for match in counts if match]
    assert (once, once_as_well) == (9, 9)
    # 5 before the kill; then all 9 come again, and each of them once more because it raised
    assert too_many == 5 + 9 + 9
    assert lines[:2] == [
        "killed by signal 9, 5 are counted",
        # 4 of the first, which the kill had left, 4 of the second, 9 of the third
        "17 handlers raised after their commit",
    ]


def test_app_sees_its_flags_switched_by_another_process(run_example: Run) -> None:
    lines = run_example("feature_flags")

    assert lines == [
        "at first: old checkout",
        "new_checkout on: new checkout",
        "sale on: new checkout, sale",
        # it was on, and expired
        "sale on 0.3: new checkout",
        "new_checkout off: old checkout",
        "the flags are not followed any more",
    ]
