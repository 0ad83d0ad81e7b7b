"""An app that does something after each commit that sends, such as to end the command."""

import sys
from pathlib import Path

WIDTH = 20_000
"""Of a line of a file, more than is read ahead."""
MEDDLES = """
import os, signal
from pathlib import Path
from kvqueue_fastapi import KvQueueModule, Middleware
from tests.cli.meddler import WIDTH

def append(text):
    with Path("m").open("a") as file:
        file.write(text)

class Meddler(Middleware):
    async def send(self, messages, call_next):
        ids = await call_next(messages)
        {deed}
        return ids

app = KvQueueModule("orders.db", middleware=[Meddler()])
"""


def meddling(deed: str) -> list[str]:
    """What to give to the command, so that this is done after each of its commits."""
    Path("meddler.py").write_text(MEDDLES.format(deed=deed))
    sys.modules.pop("meddler", None)
    return ["--app", "meddler:app"]
