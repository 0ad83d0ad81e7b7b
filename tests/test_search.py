import pytest

from kvqueue_fastapi import InvalidOptionError, State
from kvqueue_fastapi.search import Search, parse_search, written


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Search()),
        ("type:order.created", Search(type="order.created")),
        ("type:order.*", Search(type_pattern="order.*")),
        (
            "tea type:order.* key:42 error:Timeout pot",
            Search(type_pattern="order.*", ordering_key="42", error="Timeout", text="tea pot"),
        ),
        (
            'error:"no such customer" state:Delayed',
            Search(error="no such customer", state=State.DELAYED),
        ),
        ('"type:order"', Search(text="type:order")),
        ("http://shop", Search(text="http://shop")),
        ('{"item": 7}', Search(text='{"item": 7}')),
    ],
)
def test_search_is_read_as_it_is_meant(text: str, meant: Search) -> None:
    assert parse_search(text) == meant


@pytest.mark.parametrize("text", ["type:a type:b", 'key:""', "type:", "tea key: pot", "state:lost"])
def test_search_that_means_nothing_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InvalidOptionError, match=r"once|allowed are"):
        parse_search(text)


@pytest.mark.parametrize(
    "text",
    [
        '"type:order" tea',
        'type:order.* key:"4 2" state:dead',
        "http://shop",
        '{"item": 7}',
        'key:a"b "a  b"',
    ],
)
def test_search_is_written_as_it_is_read(text: str) -> None:
    assert parse_search(written(parse_search(text))) == parse_search(text)


def test_state_is_no_argument_for_dead_letters() -> None:
    search = parse_search("state:ready type:a")

    assert search.arguments()["state"] is State.READY
    assert "state" not in search.arguments(with_state=False)
