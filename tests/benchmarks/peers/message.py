"""The message that every peer is sent, and whether a peer is there."""

import importlib.util
import json

from tests.benchmarks.floor import PAYLOAD

TYPE = "order.created"
DATA = json.loads(PAYLOAD)
MESSAGE = {"type": TYPE, "data": DATA}
TEXT = json.dumps(MESSAGE)


def not_installed(*modules: str) -> str | None:
    """Which of a peer's modules has to be installed first."""
    lacking = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{', '.join(lacking)} not installed" if lacking else None
