"""`kvqueue dead`."""

import json
from collections.abc import Callable

import pytest

from tests.cli.bench import Bench, Ran
from tests.engines import ON_BOTH_ENGINES

Kvqueue = Callable[..., Ran]


@ON_BOTH_ENGINES
def test_dead_letters_are_listed_with_their_last_errors(bench: Bench, kvqueue: Kvqueue) -> None:
    ids = bench.die("order.created", 1, 2)
    bench.die("mail.send", 3)

    ran = kvqueue("dead", "ls", "type:order.*", "error:CUSTOMER")

    assert [row[:3] for row in ran.rows] == [[str(one), "order.created", "dead"] for one in ids]
    assert [row[-1] for row in ran.rows] == [
        "ValueError: no such customer: 1",
        "ValueError: no such customer: 2",
    ]


def test_a_state_other_than_dead_is_refused(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("n", 1)

    refused = kvqueue("dead", "ls", "state:ready")
    listed = kvqueue("dead", "ls", "state:dead")

    assert (refused.code, refused.out) == (2, "")
    assert "Leave state:ready out, or use kvqueue ls." in refused.err
    assert (listed.code, len(listed.rows)) == (0, 1)


def test_one_that_is_named_is_requeued_without_a_question(bench: Bench, kvqueue: Kvqueue) -> None:
    first, second = bench.die("n", 1, 2)

    ran = kvqueue("dead", "requeue", second)

    (message,) = bench.messages()
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"Dead letter {second} is requeued as message {message.id}.\n"
    assert (message.data, message.requeued_from) == (2, second)
    assert [one.id for one in bench.dead_letters()] == [first]


def test_those_that_are_no_dead_letters_are_named(bench: Bench, kvqueue: Kvqueue) -> None:
    (dead,) = bench.die("n", 1)
    (waiting,) = bench.send(("n", 2))

    requeued = kvqueue("dead", "requeue", dead, waiting, 99)
    discarded = kvqueue("dead", "discard", "--yes", waiting, dead)

    assert (requeued.code, discarded.code) == (1, 1)
    assert requeued.err == (
        f"Message {waiting} is no dead letter, or no longer.\n"
        "Message 99 is no dead letter, or no longer.\n"
    )
    assert waiting in [message.id for message in bench.messages()]


@ON_BOTH_ENGINES
def test_all_of_a_type_are_requeued(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("n", *range(12))
    bench.die("other", 99)

    ran = kvqueue("dead", "requeue", "--type", "n", "--yes")

    assert (ran.code, ran.out) == (0, "12 dead letters of type n requeued.\n")
    assert sorted(message.data for message in bench.messages()) == list(range(12))
    assert [message.type for message in bench.dead_letters()] == ["other"]


def test_all_of_every_type_are_discarded(bench: Bench, kvqueue: Kvqueue) -> None:
    bench.die("n", 1, 2)
    bench.die("other", 3)
    bench.send(("n", 4))

    ran = kvqueue("dead", "discard", "--all", "--yes", "--json")

    assert ran.records == [{"type": "n", "discarded": 2}, {"type": "other", "discarded": 1}]
    assert bench.dead_letters() == []
    assert [message.data for message in bench.messages()] == [4]


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (["discard", "--all"], "Discard 3 dead letters?"),
        (["discard", "--type", "n"], "Discard 2 dead letters of type n?"),
        (["requeue", "--type", "n"], "Requeue 2 dead letters of type n?"),
        (["discard", "1"], "Discard 1 dead letter?"),
    ],
)
def test_nothing_is_done_unconfirmed_where_nobody_can_answer(
    bench: Bench, kvqueue: Kvqueue, arguments: list[str], question: str
) -> None:
    bench.die("n", 1, 2)
    bench.die("other", 3)

    ran = kvqueue("dead", *arguments, stdin="y\n")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"kvqueue: {question} Nobody is there to answer. Add --yes.\n"
    assert len(bench.dead_letters()) == 3


def test_of_a_type_without_dead_letters_none_is_done(bench: Bench, kvqueue: Kvqueue) -> None:
    ran = kvqueue("dead", "requeue", "--type", "n")

    assert (ran.code, ran.out) == (0, "0 dead letters of type n requeued.\n")


@pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["--type", "n", "--all"]])
@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_it_must_be_said_in_one_way_which_are_meant(
    bench: Bench, kvqueue: Kvqueue, verb: str, arguments: list[str]
) -> None:
    ran = kvqueue("dead", verb, *arguments)

    assert ran.code == 2
    assert "or --type TYPE, or --all: one of the three" in ran.err


# --- with another payload ---


@ON_BOTH_ENGINES
@pytest.mark.parametrize("stdin", [False, True], ids=["argument", "stdin"])
def test_dead_letter_is_requeued_with_another_payload(
    bench: Bench,
    kvqueue: Kvqueue,
    stdin: bool,  # noqa: FBT001 because pytest gives it
) -> None:
    (dead,) = bench.die("order.created", {"customer": None})
    data = json.dumps({"customer": 7})

    ran = kvqueue(
        "dead", "requeue", dead, "--data", "-" if stdin else data, stdin=data if stdin else ""
    )

    (message,) = bench.messages()
    assert (ran.code, message.data, message.requeued_from) == (0, {"customer": 7}, dead)
    assert bench.dead_letters() == []


def test_another_payload_is_held_against_the_model_of_the_app(
    bench: Bench, kvqueue: Kvqueue
) -> None:
    (dead,) = bench.die("order.created", {})

    refused = kvqueue("dead", "requeue", dead, "--data", '{"order": 7}', "--app", "cli_shop:app")
    taken = kvqueue("dead", "requeue", dead, "--data", '{"order_id": 7}', "--app", "cli_shop:app")

    assert (refused.code, taken.code) == (1, 0)
    assert "Payload does not fit Order: order_id: Field required" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["1", "--data", "{"], 2, "The payload '{' is no JSON"),
        (["1", "--data", '{"a":1,"a":2}'], 2, 'would be lost: the name "a" is there twice'),
        (["1", "--data", "1e400"], 2, "would be lost: the number 1e400 is too large"),
        (["1", "2", "--data", "{}"], 2, "--data is the payload of one dead letter"),
        (["--all", "--data", "{}"], 2, "--data is the payload of one dead letter"),
        (["99", "--data", "{}"], 1, "Message 99 cannot be requeued: it is no dead letter"),
        (["99", "--data", "{}"], 1, "dead_letters(), or `kvqueue dead ls`."),
    ],
)
def test_another_payload_must_be_json_and_for_one(
    bench: Bench, kvqueue: Kvqueue, arguments: list[str], code: int, says: str
) -> None:
    ran = kvqueue("dead", "requeue", *arguments)

    assert ran.code == code
    assert says in ran.err
