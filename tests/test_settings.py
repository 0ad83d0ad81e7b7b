"""Settings: from arguments, the environment and defaults, within their limits."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from kvqueue_fastapi.settings import KvQueueSettings

DEFAULTS = {
    "url": "kvqueue.db",
    "listen": True,
    "concurrency": 100,
    "sync_concurrency": 40,
    "lease_s": 30,
    "max_crashes": 5,
    "backoff_schedule_s": (0.1, 1, 5, 30, 60),
    "retry_jitter": 0.0,
    "shutdown_timeout_s": 10,
    "max_payload_bytes": 65_536,
    "max_pending": None,
    "idempotency_window_s": 86_400,
    "dead_letter_retention_s": 2_592_000,
    "unhandled": "leave",
    "poll_interval_s": 1.0,
    "sqlite_synchronous": "FULL",
    "postgres_schema": "kvqueue",
    "postgres_listen_url": None,
    "postgres_pool_size": 5,
}


def test_defaults_are_those_of_the_documentation() -> None:
    assert KvQueueSettings().model_dump() == DEFAULTS


def test_every_setting_says_what_it_is() -> None:
    undescribed = [
        name for name, field in KvQueueSettings.model_fields.items() if not field.description
    ]

    assert undescribed == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("url", "sqlite:////var/orders.db", "sqlite:////var/orders.db"),
        ("listen", "false", False),
        ("concurrency", "10000", 10_000),
        ("lease_s", "1", 1),
        ("max_pending", "1", 1),
        ("unhandled", "fail", "fail"),
        ("sqlite_synchronous", "NORMAL", "NORMAL"),
        ("backoff_schedule_s", "0.1,1,5", (0.1, 1, 5)),
        ("backoff_schedule_s", " 0.5 , 2 ", (0.5, 2)),
        ("backoff_schedule_s", "3", (3,)),
        ("backoff_schedule_s", "[0.1, 86400]", (0.1, 86_400)),
        ("backoff_schedule_s", "[]", ()),
    ],
)
def test_environment_sets_it(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"KVQUEUE_{name.upper()}", text)

    settings = KvQueueSettings()

    assert getattr(settings, name) == value


def test_name_that_looks_like_one_of_the_servers_but_is_none_is_taken() -> None:
    for name in ("pgqueue", "PG_QUEUE", "_pg_"):
        assert KvQueueSettings(postgres_schema=name).postgres_schema == name


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVQUEUE_CONCURRENCY", "7")
    monkeypatch.setenv("KVQUEUE_BACKOFF_SCHEDULE_S", "7")

    settings = KvQueueSettings(concurrency=8, backoff_schedule_s=(8, 9))

    assert settings.concurrency == 8
    assert settings.backoff_schedule_s == (8, 9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", ""),
        ("concurrency", 0),
        ("concurrency", 10_001),
        ("sync_concurrency", 0),
        ("lease_s", 0.9),
        ("lease_s", float("nan")),
        ("lease_s", float("inf")),
        ("max_crashes", 0),
        ("backoff_schedule_s", (1,) * 21),
        ("backoff_schedule_s", (1, -1)),
        ("backoff_schedule_s", (86_401,)),
        ("backoff_schedule_s", (float("nan"),)),
        ("backoff_schedule_s", 5),
        ("retry_jitter", 1.1),
        ("retry_jitter", float("nan")),
        ("shutdown_timeout_s", -1),
        ("shutdown_timeout_s", float("inf")),
        ("max_payload_bytes", 0),
        ("max_payload_bytes", 16 * 1024 * 1024 + 1),
        ("max_pending", 0),
        ("idempotency_window_s", float("inf")),
        ("dead_letter_retention_s", 0),
        ("unhandled", "drop"),
        ("poll_interval_s", 0),
        ("poll_interval_s", float("nan")),
        ("sqlite_synchronous", "OFF"),
        ("postgres_schema", "pg_foo"),
        ("postgres_schema", 'a"b'),
    ],
)
def test_value_outside_its_limits_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        KvQueueSettings(**{name: value})

    assert caught.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CONCURRENCY", "many"),
        ("LEASE_S", "nan"),
        ("MAX_PENDING", ""),
        ("BACKOFF_SCHEDULE_S", ""),
        ("BACKOFF_SCHEDULE_S", "1;2"),
        ("BACKOFF_SCHEDULE_S", "[1, 2"),
        ("BACKOFF_SCHEDULE_S", '["soon"]'),
        ("BACKOFF_SCHEDULE_S", '{"a": 1}'),
        ("BACKOFF_SCHEDULE_S", "[" * 100_000),
        ("BACKOFF_SCHEDULE_S", "null"),
    ],
)
def test_wrong_value_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"KVQUEUE_{name}", text)

    with pytest.raises(ValidationError, match=name.lower()):
        KvQueueSettings()


def test_foreign_variables_of_the_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVQUEUE_IMAGE_TAG", "1.2")

    assert KvQueueSettings().model_dump() == DEFAULTS


class FromFile(KvQueueSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")


def test_a_file_with_other_things_too_is_read_by_a_subclass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("KVQUEUE_URL=shop.db\nDATABASE_URL=postgresql://shop\n")

    assert FromFile().url == "shop.db"


def test_argument_that_is_no_setting_is_refused() -> None:
    misspelt: dict[str, Any] = {"concurency": 5}

    with pytest.raises(ValidationError, match="concurency"):
        KvQueueSettings(**misspelt)


def test_settings_do_not_change() -> None:
    settings = KvQueueSettings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.concurrency = 5
