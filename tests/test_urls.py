"""Where a store is can be told without its password, however that was written."""

import logging
import traceback
from pathlib import Path

import pytest

from kvqueue_fastapi import InvalidOptionError, KvQueueSettings, StoreBusyError, StoreError
from kvqueue_fastapi.store import open_store
from kvqueue_fastapi.store.sqlite.location import path_of
from kvqueue_fastapi.urls import has_password, shown_url

OPEN = [
    "orders.db",
    ":memory:",
    "dir/a:b@c.db",
    "/srv/a:b@c.db",
    "/srv/bypass=1/orders.db",
    "bypass=1.db",
    "orders.db?pass=1",
    "C:/x/compass=2.db",
    r"C:\Users\ada@host\orders.db",
    "sqlite:///a:b@c.db",
    "sqlite:////srv/a:b@c.db",
    "postgresql://host:5432/shop",
    "postgresql://one:5432,two:5433/shop",
    "postgresql://[::1]:5432/shop",
    "postgresql://ada@host/shop",
    "postgresql:///shop?host=/run&user=ada",
]
HIDING = [
    ("postgresql://ada:c0ffee@host/shop", "postgresql://ada:***@host/shop"),
    ("postgresql://:c0ffee@host/shop", "postgresql://:***@host/shop"),
    (r"postgresql://CORP\ada:c0ffee@host/shop", r"postgresql://CORP\ada:***@host/shop"),
    ("postgresql://ada@srv:c0@f/f?ee@host/shop", "postgresql://ada@srv:***@host/shop"),
    ("postgresql://ada:c0?ffee@host:1/shop", "postgresql://ada:***@host:1/shop"),
    ("postgresql+asyncpg://ada:c0ffee@host/shop", "postgresql+asyncpg://ada:***@host/shop"),
    ("postgresql:/ada:c0ffee@host/shop", "postgresql:/ada:***@host/shop"),
    ("postgresql:ada:c0ffee@host/shop", "postgresql:***@host/shop"),
    ("postgresql;//ada:c0ffee@host/shop", "postgresql;//ada:***@host/shop"),
    (r"postgresql:\\ada:c0ffee@host/shop", r"postgresql:\\ada:***@host/shop"),
    ("postgresql//ada:c0ffee@host/shop", "postgresql//ada:***@host/shop"),
    ("//ada:c0ffee@host/shop", "//ada:***@host/shop"),
    ("/ada:c0ffee@host/shop", "/ada:***@host/shop"),
    ("://ada:c0ffee@host/shop", "://ada:***@host/shop"),
    ("ada:c0ffee@host/shop", "ada:***@host/shop"),
    ("ada:/c0ffee@host/shop", "ada:***@host/shop"),
    ('"postgresql://ada:c0ffee@host/shop"', '"postgresql://ada:***@host/shop"'),
    (" postgresql://ada:c0ffee@host/shop", " postgresql://ada:***@host/shop"),
    ("KVQUEUE_URL=postgresql://ada:c0ffee@host", "KVQUEUE_URL=postgresql://ada:***@host"),
    ("psql postgresql://ada:c0ffee@host", "psql postgresql://ada:***@host"),
    ("sqlite:///postgresql://ada:c0ffee@host", "sqlite:///postgresql://ada:***@host"),
    ("sqlite+aiosqlite:///ada:c0ffee@host/shop", "sqlite+aiosqlite:///ada:***@host/shop"),
    ("postgresql://ada:c0ffee", "postgresql://ada:***"),
    ("postgresql://ada:c0ffee/shop", "postgresql://ada:***/shop"),
    ("postgresql:///shop?password=c0ffee&user=ada", "postgresql:///shop?password=***&user=ada"),
    ("postgresql:///shop?user=a;password=c0ffee", "postgresql:///shop?user=a;password=***"),
    ("postgresql:///shop?password=c0 'ffee", "postgresql:///shop?password=***"),
    ("postgresql:///shop?password='c0'ffee", "postgresql:///shop?password=***"),
    ("postgresql:///shop?user=a&sslpassword=c", "postgresql:///shop?user=a&sslpassword=***"),
    ("postgresql:///shop?PASSWORD=c0ffee", "postgresql:///shop?PASSWORD=***"),
    ("postgresql:///shop?pwd=c0ffee", "postgresql:///shop?pwd=***"),
    ("postgresql:///shop?pass%77ord=c0ffee", "postgresql:///shop?pass%77ord=***"),
    ("host=srv password=c0ffee user=ada", "host=srv password=*** user=ada"),
    (r"host=srv password = 'c0 \'ffee' user=ada", "host=srv password = *** user=ada"),
    ("host=srv password='c0 ffee user=ada", "host=srv password=***"),
]


@pytest.mark.parametrize("url", OPEN)
def test_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert shown_url(url) == url
    assert not has_password(url)


@pytest.mark.parametrize(("url", "shown"), HIDING)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert has_password(url)


@pytest.mark.parametrize("url", ["postgresql://ada:c0?ffee@host/shop", "postgresql://ada:c0ffee"])
async def test_not_even_a_traceback_shows_what_a_parser_has_read(url: str) -> None:
    with pytest.raises(StoreError, match="the URL cannot be read") as caught:
        await open_store(url, KvQueueSettings())

    assert "ffee" not in "".join(traceback.format_exception(caught.value))


async def test_neither_error_nor_log_shows_the_password_of_the_url_for_listening(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "kvqueue_fastapi")
    settings = KvQueueSettings(postgres_listen_url="postgresql://ada:c0?ffee@host/shop", lease_s=1)
    store = await open_store(postgres_url, settings)

    with pytest.raises(StoreError, match="the URL cannot be read") as caught:
        await store.enter_listener(["n"])
    await store.close()

    assert "cannot be listened to" in caplog.text
    assert "ffee" not in caplog.text + "".join(traceback.format_exception(caught.value))


async def test_an_option_that_no_driver_takes_is_told_at_once() -> None:
    url = "postgresql://ada:c0ffee@127.0.0.1:1/shop?sslmode=perhaps"

    with pytest.raises(StoreError, match="`sslmode` parameter must be one of") as caught:
        await open_store(url, KvQueueSettings())

    assert not isinstance(caught.value, StoreBusyError)


@pytest.mark.parametrize("name", ["app:prod@eu.db", "host=srv password=1"])
def test_path_that_looks_like_a_url_is_taken_where_it_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidOptionError, match="is neither a path"):
        path_of(name)

    assert path_of(f"sqlite:///{name}") == str(tmp_path / name)
    assert path_of(f"./{name}") == str(tmp_path / name)
    (tmp_path / name).touch()
    assert path_of(name) == str(tmp_path / name)
