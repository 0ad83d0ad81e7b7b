"""What can be set from outside, each with its unit, its default and its limits."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

MAX_BACKOFF_STEPS: Final = 20
MAX_BACKOFF_STEP_S: Final = 86_400
MIN_LEASE_S: Final = 1
DEFAULT_MAX_PAYLOAD_BYTES: Final = 65_536
MAX_PAYLOAD_LIMIT_BYTES: Final = 16 * 1024 * 1024
_DAY_S: Final = 86_400
_TEN_YEARS_S: Final = 3_650 * _DAY_S


def _split(value: Any) -> Any:
    """Read "0.1,1,5" or "[0.1, 1, 5]"; what is no text is left for pydantic to judge."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return value.split(",")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        msg = 'write it as "0.1,1,5" or as the JSON list "[0.1, 1, 5]"'
        raise ValueError(msg) from exc


def _of_our_own(schema: str) -> str:
    if schema.startswith("pg_"):
        msg = (
            f"the name is {schema!r}, but names that begin with pg_ are PostgreSQL's own: give "
            'another, such as "kvqueue"'
        )
        raise ValueError(msg)
    return schema


BackoffStepS = Annotated[float, Field(ge=0, le=MAX_BACKOFF_STEP_S, allow_inf_nan=False)]


class KvQueueSettings(BaseSettings):
    """The settings of one queue, from arguments, then `KVQUEUE_…` in the environment.

    Raises:
        pydantic.ValidationError: a value is of another type or outside its limits, or an
            argument is no setting; the error names the field.
    """

    model_config = SettingsConfigDict(
        env_prefix="KVQUEUE_",
        frozen=True,
        extra="forbid",
        validate_default=True,
        # What an error names first, because the field alone does not lead to the variable.
        title="KvQueueSettings, in the environment KVQUEUE_ and the name in capitals",
    )

    url: str = Field(
        default="kvqueue.db",
        min_length=1,
        description="Where the store is: a path, sqlite:///relative, sqlite:////absolute, :memory: "
        "or postgresql://user:password@host/database.",
    )
    listen: bool = Field(
        default=True, description="Whether this process handles messages; False: it only sends."
    )
    concurrency: int = Field(
        default=100, ge=1, le=10_000, description="Messages handled at once in this process."
    )
    sync_concurrency: int = Field(
        default=40, ge=1, le=10_000, description="Threads for handlers written with `def`."
    )
    lease_s: float = Field(
        default=30,
        ge=MIN_LEASE_S,
        le=_DAY_S,
        allow_inf_nan=False,
        description="Seconds until the messages of a frozen process go to another, 1 to 86,400.",
    )
    max_crashes: int = Field(
        default=5,
        ge=1,
        description="Deliveries that may end with their process before a message is given up.",
    )
    backoff_schedule_s: Annotated[tuple[BackoffStepS, ...], NoDecode, BeforeValidator(_split)] = (
        Field(
            default=(0.1, 1, 5, 30, 60),
            max_length=MAX_BACKOFF_STEPS,
            description="Seconds before each retry, at most 20 steps of 0 to 86,400; [] is no "
            'retry. In the environment "0.1,1,5" or JSON.',
        )
    )
    retry_jitter: float = Field(
        default=0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="The share of a backoff step, 0 to 1, up to which chance adds to it.",
    )
    shutdown_timeout_s: float = Field(
        default=10,
        ge=0,
        le=_DAY_S,
        allow_inf_nan=False,
        description="Seconds that running handlers have to finish when the app stops.",
    )
    max_payload_bytes: int = Field(
        default=DEFAULT_MAX_PAYLOAD_BYTES,
        ge=1,
        le=MAX_PAYLOAD_LIMIT_BYTES,
        description="Bytes that a payload or value may take, at most 16 MiB.",
    )
    max_pending: int | None = Field(
        default=None,
        ge=1,
        description="Messages that may wait, over all types, before a send is refused; "
        "unset: no limit.",
    )
    idempotency_window_s: float = Field(
        default=_DAY_S,
        gt=0,
        le=_TEN_YEARS_S,
        allow_inf_nan=False,
        description="Seconds for which an idempotency key is remembered.",
    )
    dead_letter_retention_s: float = Field(
        default=30 * _DAY_S,
        gt=0,
        le=_TEN_YEARS_S,
        allow_inf_nan=False,
        description="Seconds for which a dead letter is kept.",
    )
    unhandled: Literal["leave", "fail"] = Field(
        default="leave",
        description="A type that this process has no handler for: leave it to others, or fail it.",
    )
    poll_interval_s: float = Field(
        default=1.0,
        gt=0,
        le=3_600,
        allow_inf_nan=False,
        description="Seconds between looks for messages when nothing wakes the listener.",
    )
    sqlite_synchronous: Literal["FULL", "NORMAL", "EXTRA"] = Field(
        default="FULL",
        description="SQLite's PRAGMA synchronous; NORMAL may lose the last sends when power goes.",
    )
    postgres_schema: Annotated[str, AfterValidator(_of_our_own)] = Field(
        default="kvqueue",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
        description="PostgreSQL's schema that the tables are in.",
    )
    postgres_listen_url: str | None = Field(
        default=None,
        pattern="^postgres(ql)?://",
        description="A PostgreSQL URL that leads straight to the server, where the other one "
        "leads to a pooler such as PgBouncer, through which nobody can LISTEN.",
    )
    postgres_pool_size: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Connections to PostgreSQL at the most, beside one that listens and 4 that "
        "wait for callers' transactions.",
    )


def overruled(settings: KvQueueSettings, chosen: Mapping[str, Any]) -> KvQueueSettings:
    """Give the same settings with other values for some of ours.

    Args:
        settings: of the caller's own class, which may have fields of the app beside ours.
        chosen: by the name of the setting.

    Raises:
        pydantic.ValidationError: one of `chosen` is outside its limits.
    """
    defaults = {name: field.default for name, field in KvQueueSettings.model_fields.items()}
    checked = KvQueueSettings.model_validate({**defaults, **chosen})
    # Not made anew: an alias or an excluded field of the app's own would not come through.
    return settings.model_copy(update={name: getattr(checked, name) for name in chosen})
