"""What is not used costs nothing, and says how to get it."""

import subprocess
import sys

import pytest

OPTIONAL = (
    "jinja2", "typer", "rich", "prometheus_client", "opentelemetry", "sentry_sdk", "asyncpg",
)  # fmt: skip


def ran(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_the_package_imports_nothing_that_is_optional() -> None:
    # newer versions of FastAPI bring opentelemetry-api, and import it by themselves
    code = (
        "import sys, fastapi; before = set(sys.modules);"
        "import kvqueue_fastapi, kvqueue_fastapi.telemetry, kvqueue_fastapi.telemetry.logs;"
        f"print([name for name in {OPTIONAL!r} if name in set(sys.modules) - before])"
    )

    assert ran(code) == "[]"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("opentelemetry", "opentelemetry", "otel")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    module: str, library: str, extra: str
) -> None:
    code = (
        f"import fastapi, sys; sys.modules[{library!r}] = None\n"
        f"try: import kvqueue_fastapi.telemetry.{module}\n"
        "except ImportError as error: print(error)"
    )

    assert f"pip install 'kvqueue_fastapi[{extra}]'" in ran(code)
