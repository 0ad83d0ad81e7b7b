"""Where a store is can be told without its password, however that was written."""

import pytest

from kvqueue_fastapi.urls import has_password, shown_url

OPEN = [
    "orders.db",
    ":memory:",
    "dir/a:b@c.db",
    "/srv/a:b@c.db",
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
    ("postgresql://ada@srv:c0@f/f?ee@host/shop", "postgresql://ada@srv:***@host/shop"),
    ("postgresql://ada:c0?ffee@host:1/shop", "postgresql://ada:***@host:1/shop"),
    ("postgresql+asyncpg://ada:c0ffee@host/shop", "postgresql+asyncpg://ada:***@host/shop"),
    ("postgresql:/ada:c0ffee@host/shop", "postgresql:/ada:***@host/shop"),
    ("postgresql:ada:c0ffee@host/shop", "postgresql:ada:***@host/shop"),
    (r"postgresql:\\ada:c0ffee@host/shop", r"postgresql:\\ada:***@host/shop"),
    ("postgresql//ada:c0ffee@host/shop", "postgresql//ada:***@host/shop"),
    ("//ada:c0ffee@host/shop", "//ada:***@host/shop"),
    ("ada:c0ffee@host/shop", "ada:***@host/shop"),
    ("sqlite+aiosqlite:///ada:c0ffee@host/shop", "sqlite+aiosqlite:///ada:***@host/shop"),
    ("postgresql://ada:c0ffee", "postgresql://ada:***"),
    ("postgresql://ada:c0ffee/shop", "postgresql://ada:***/shop"),
    ("postgresql:///shop?password=c0ffee&user=ada", "postgresql:///shop?password=***&user=ada"),
    ("postgresql:///shop?user=a&sslpassword=c", "postgresql:///shop?user=a&sslpassword=***"),
    ("postgresql:///shop?PASSWORD=c0ffee", "postgresql:///shop?PASSWORD=***"),
    ("postgresql:///shop?pass%77ord=c0ffee", "postgresql:///shop?pass%77ord=***"),
    ("host=srv password=c0ffee user=ada", "host=srv password=*** user=ada"),
    (r"host=srv password = 'c0 \'ffee' user=ada", "host=srv password = *** user=ada"),
]


@pytest.mark.parametrize("url", OPEN)
def test_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert shown_url(url) == url
    assert not has_password(url)


@pytest.mark.parametrize(("url", "shown"), HIDING)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert has_password(url)
