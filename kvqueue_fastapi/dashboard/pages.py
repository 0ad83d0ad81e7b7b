"""The templates, and what they can do with what they are told."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from kvqueue_fastapi.dashboard import wording
from kvqueue_fastapi.dashboard.assets import versioned


def render(template: str, facts: dict[str, Any]) -> bytes:
    r"""Fill in a template.

    Returns:
        UTF-8. Lone surrogates, which it cannot hold, are written as JSON does: `\ud800`.
    """
    return _environment().get_template(template).render(facts).encode("utf-8", "backslashreplace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kvqueue_fastapi.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals["versioned"] = versioned
    environment.filters.update(
        ago=wording.ago,
        beginning=wording.beginning,
        duration=wording.duration,
        json=wording.as_json,
        number=wording.number,
        of_type=wording.of_type,
        plain=wording.plain,
        rate=wording.rate,
        share=wording.share,
        url=wording.url_part,
        utc=wording.utc,
    )
    return environment
