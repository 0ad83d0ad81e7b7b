"""A payload as a keeper has typed it: all of it, or not at all."""

import json
import math
from typing import Any


def read_typed(text: str) -> Any:
    """Read JSON; NaN and Infinity may stand in it, as they can be stored.

    Raises:
        ValueError: it is no JSON, or some of it would be lost: a name twice, a number too large.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object, parse_float=_float)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            msg = f"the name {json.dumps(name)[:80]} is there twice in one object. Leave one"
            raise ValueError(msg)
        found[name] = value
    return found


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        msg = f"the number {text[:40]} is too large for a float. Write it as a string"
        raise ValueError(msg)
    return number
