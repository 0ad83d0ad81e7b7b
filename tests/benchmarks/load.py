"""HTTP load by autocannon, which Deno runs and fetches from npm at its first use."""

import functools
import json
import subprocess
from collections.abc import Mapping
from typing import Any

from tests.benchmarks.rows import Figures

AUTOCANNON = "npm:autocannon@8.0.0"
CONNECTIONS = 64
PATIENCE_S = 60


class LoadError(Exception):
    """An answer that was no 2xx, or none."""


@functools.cache
def no_generator() -> str | None:
    """Why there is no load generator, if so."""
    try:
        _autocannon("--version")
    except ImportError:
        return "deno, which runs the load generator, is not installed"
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"{AUTOCANNON} does not run in deno: {said.strip().splitlines()[0]}"
    return None


def post(url: str, body: str, seconds: float) -> Figures:
    """Send this body again and again over 64 connections, after a short warm-up.

    Raises:
        LoadError: an answer was no 2xx.
    """
    warm_up = ["--warmup", "[", "-c", str(CONNECTIONS), "-d", f"{seconds / 5:g}", "]"]
    options = ["-c", str(CONNECTIONS), "-d", f"{seconds:g}", "-L", "100", "-m", "POST", "-b", body]
    header = ["-H", "content-type=application/json"]
    printed = _autocannon("--json", *warm_up, *options, *header, url)
    # A line for the warm-up, then one for the load.
    return _figures(json.loads(printed.splitlines()[-1]))


def _figures(report: Mapping[str, Any]) -> Figures:
    if report["non2xx"] or report["errors"] or report["timeouts"]:
        bad = {name: report[name] for name in ("non2xx", "errors", "timeouts", "statusCodeStats")}
        raise LoadError(bad)
    latency = report["latency"]
    return {
        "per_s": report["2xx"] / report["duration"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
    }


def _autocannon(*options: str) -> str:
    import deno

    command = [deno.find_deno_bin(), "run", "--quiet", "--no-prompt", "--allow-all", AUTOCANNON]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return done.stdout
