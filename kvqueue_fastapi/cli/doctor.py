"""`kvqueue doctor`: what is wrong with a queue, and what to do."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import typer
from rich.text import Text

from kvqueue_fastapi.cli.commands import add
from kvqueue_fastapi.cli.exits import FAILED, FINE
from kvqueue_fastapi.cli.options import App, Json, Url
from kvqueue_fastapi.cli.output import Output
from kvqueue_fastapi.cli.stores import Place, completed, surveyed
from kvqueue_fastapi.cli.symptoms.findings import Finding, Severity, of_error
from kvqueue_fastapi.cli.symptoms.listening import of_listeners
from kvqueue_fastapi.cli.symptoms.outside import of_survey
from kvqueue_fastapi.cli.symptoms.waiting import of_counts, of_misfits
from kvqueue_fastapi.cli.tables import Column
from kvqueue_fastapi.cli.texts import counted, now_ms, visible
from kvqueue_fastapi.errors import StoreError
from kvqueue_fastapi.lifespan import Runtime
from kvqueue_fastapi.store.surveys import StoreSurvey
from kvqueue_fastapi.version import __version__

MISFITS: Final = 50
COLUMNS: Final = (Column("SEVERITY"), Column("WHAT"), Column("REMEDY"))
_STYLES: Final = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}
_NO_APP: Final = Finding(
    Severity.NOTE,
    "Payloads were not held against the models of their handlers.",
    "Name the app: --app module:app.",
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "doctor", _examine)


def _examine(*, url: Url = None, app: App = None, as_json: Json = False) -> int:
    """Look for what is wrong with a queue, and say what to do.

    Nothing is changed. A problem makes the exit code 1; warnings and notes do not. With --app,
    every payload that waits is held against the model of its handler, as after a deploy.
    """
    findings = completed(_findings(Place(url, app)))
    output = Output(as_json=as_json)
    if output.as_json:
        output.records(findings)
    else:
        _show(findings, output)
    return FAILED if any(one.severity is Severity.PROBLEM for one in findings) else FINE


async def _findings(place: Place) -> list[Finding]:
    runtime = place.runtime()
    found: list[Finding] = []
    try:
        survey = await surveyed(runtime.settings)
        found += of_survey(survey)
        if survey.is_there and survey.schema >= survey.known_schema:
            async with runtime.running():
                found += await _inside(runtime, survey, has_app=place.app is not None)
    except StoreError as error:
        found.append(of_error(error))
    order = list(Severity)
    return sorted(found, key=lambda one: order.index(one.severity))


async def _inside(runtime: Runtime, survey: StoreSurvey, *, has_app: bool) -> list[Finding]:
    admin = runtime.admin
    found = [
        *of_counts(await admin.counts()),
        *of_listeners(
            await admin.listeners(),
            survey,
            pool_size=runtime.settings.postgres_pool_size,
            version=__version__,
            now_ms=now_ms() + round(survey.clock_ahead_s * 1000),
        ),
    ]
    if has_app:
        return [*found, *of_misfits(await admin.misfits(limit=MISFITS), limit=MISFITS)]
    return [*found, _NO_APP]


def _show(findings: Sequence[Finding], output: Output) -> None:
    if not output.is_pretty:
        output.table(COLUMNS, [(one.severity, one.what, one.remedy) for one in findings], "")
        return
    for one in findings:
        text = Text(f"{one.severity:<8} ", style=_STYLES[one.severity])
        output.say(text.append(visible(one.what), style="not bold default"))
        if one.remedy:
            output.say(Text(f"{'':<8} → {visible(one.remedy)}", style="dim"))
    numbers = Counter(one.severity for one in findings)
    output.say(
        f"\n{counted(numbers[Severity.PROBLEM], 'problem')}, "
        f"{counted(numbers[Severity.WARNING], 'warning')}."
    )
