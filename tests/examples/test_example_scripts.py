"""Each example runs to its end and shows what it says."""

import re
from collections.abc import Callable

import pytest

Run = Callable[[str], list[str]]


def test_reminders_come_when_they_are_due(run_example: Run) -> None:
    lines = run_example("delay")

    told = [re.fullmatch(r"(\d+\.\d) s after it was sent: (.*)", line) for line in lines]
    assert [match and match[2] for match in told] == [
        "boil the water",
        "pour the water",
        "take the tea off",
    ]
    waited = [float(match[1]) for match in told if match]
    assert waited[1] >= 1.0
    # It names a time, of which a moment had gone when it was sent.
    assert waited[2] >= 1.5


def test_dead_letters_are_looked_at_and_sent_again(run_example: Run) -> None:
    lines = run_example("dead_letters")

    assert [line.partition(" because ")[::2] for line in sorted(lines[:3])] == [
        ("dead after 1 attempts: {'item': 'cup', 'quantity': 5000}", "Reject: nobody has so many"),
        ("dead after 3 attempts: {'item': 'cup', 'quantity': 3}", "KeyError: 'cup'"),
        ("dead after 3 attempts: {'item': 'pot', 'quantity': 1}", "KeyError: 'pot'"),
    ]
    assert lines[3:5] == ["the price list arrives", "2 sent again, 1 thrown away"]
    assert sorted(lines[5:7]) == ["1 pot cost 20", "3 cup cost 12"]
    assert lines[7:] == ["nothing is left"]


def test_ordering_key_holds_its_order_and_nobody_elses(run_example: Run) -> None:
    lines = run_example("ordering_key")

    assert lines[-1] == "in order: {'ann': [0, 1, 2, 3, 4], 'bob': [0, 1, 2, 3, 4]}"
    failed = lines.index("ann 1 fails; ann waits for its retry, bob goes on")
    retried = lines.index("ann 1 booked")
    assert any(line.startswith("bob") for line in lines[failed:retried])
    assert not any(line.startswith("ann") for line in lines[failed + 1 : retried])


def test_other_processes_send_by_sql_and_by_package(run_example: Run) -> None:
    lines = run_example("send_from_another_process")

    assert lines == [
        "parcel 1 is at the harbour, headers {}",
        "parcel 2 is at the depot, headers {'from': 'scanner'}",
    ]


def test_web_process_sends_and_worker_process_handles(run_example: Run) -> None:
    lines = run_example("worker")

    said = [re.sub(r" \d+:", ":", line) for line in lines]
    assert said[:4] == [*[f"web: message {n} is on disk" for n in (1, 2, 3)], "waiting: 3"]
    assert "worker: listening" in said
    thumbnails = [line for line in said if "thumbnail" in line]
    assert sorted(thumbnails) == [
        f"worker: thumbnail of {name}.png" for name in ("cat", "dog", "fox")
    ]
    assert said[-2:] == ["worker: drained", "waiting: 0"]
    assert len(set(re.findall(r"(?:web|worker) (\d+):", "\n".join(lines)))) == 2


def test_asked_twice_is_sent_once_and_delivered_twice_is_entered_once(run_example: Run) -> None:
    lines = run_example("idempotency")

    # The handler may begin while the sender is still at it.
    delivered = [line for line in lines if line.startswith("delivery")]
    assert delivered == ["delivery 1: entered", "delivery 2: was entered before"]
    sent = [line for line in lines if line not in delivered]
    assert sent[0] == "asked for twice, sent once: True"
    assert sent[1].startswith("refused: Idempotency key 'invoice-7'")
    assert sent[2:] == ["payments in the books: 1"]


def test_order_and_its_message_are_both_there_or_neither_on_sqlite(run_example: Run) -> None:
    check_orders(run_example("order_outbox"))


def test_order_and_its_message_are_both_there_or_neither_on_postgres(
    run_example: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVQUEUE_URL", postgres_url)

    check_orders(run_example("order_outbox"))


def check_orders(lines: list[str]) -> None:
    # The handler may begin before the customer has the answer.
    assert sorted(lines[:2]) == ["ann orders a teapot: 201", "receipt for the teapot of ann"]
    assert lines[2:] == [
        "bob orders a kettle: 402",
        "orders of ann; messages that wait: 0",
        "eve orders a teapot: killed by signal 9",
        "orders of ann; messages that wait: 0",
    ]


def test_example_of_tests_passes(run_example: Run) -> None:
    lines = run_example("testing_an_app")

    assert "4 passed" in lines[-1]
