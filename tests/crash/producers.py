"""Clients that send over HTTP, and write down what they were told."""

import asyncio
import json
import random
import time
import uuid
from typing import Any, Final

from tests.crash.ledger import Ledger

ANSWER_S: Final = 10
PAUSE_S: Final = 0.05
SHARES: Final = {
    "plain": 26, "slow": 8, "blocking": 6, "thread": 12, "flaky": 12, "later": 6, "effect": 14,
    "delayed": 8, "doomed": 2, "rejected": 2,
}  # fmt: skip
"""How often each kind of message is sent, poison apart."""
LONGEST_S: Final = {"slow": 2.5, "blocking": 0.05, "thread": 0.2}
"""How long the handlers of some kinds take; those of all others take `SHORT_S` at the most."""
SHORT_S: Final = 0.06


class Producer:
    """One client that sends one message after another.

    Args:
        ledger: where it writes what it did.
        port: of the server.
        lane: its ordering key; "": it has none.
        is_patient: whether it sends again, under the same idempotency key, what was not
            answered; else it leaves that and goes on.
        poison: the share of its messages that kill whoever handles them.
    """

    def __init__(
        self, ledger: Ledger, port: int, *, lane: str, is_patient: bool, poison: float
    ) -> None:
        self._ledger = ledger
        self._port = port
        self._lane = lane
        self._is_patient = is_patient
        self._poison = poison

    async def run(self, stop: asyncio.Event, pace_s: float) -> None:
        """Send until it is to stop, every `pace_s` seconds on average."""
        while not stop.is_set():
            await self._send()
            await asyncio.sleep(random.uniform(0, 2 * pace_s))

    async def _send(self) -> None:
        kind = "poison" if random.random() < self._poison else _drawn_kind()
        if self._lane and kind == "slow":
            kind = "plain"  # or what comes behind it would pile up
        delay = round(random.uniform(0.1, 2), 3) if kind == "delayed" else 0
        key = uuid.uuid4().hex
        seconds = random.uniform(0, LONGEST_S.get(kind, SHORT_S))
        work = {"key": key, "kind": kind, "lane": self._lane, "seconds": round(seconds, 4)}
        body = {"type": "thread" if kind == "thread" else "async", "work": work, "delay": delay}
        named = {"key": key, "kind": kind, "lane": self._lane}
        self._ledger.note("sending", due=time.time() + delay, **named)
        while (message_id := await self._ask(body)) is None:
            if not self._is_patient:
                self._ledger.note("unsure", **named)
                return
            await asyncio.sleep(PAUSE_S)
        self._ledger.note("sent", id=message_id, **named)

    async def _ask(self, body: dict[str, Any]) -> int | None:
        """Returns the message's id; None: nobody knows whether it was stored."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await _post(self._port, json.dumps(body).encode())
        except (OSError, TimeoutError):
            return None
        head, _, content = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or not content.isdigit():
            return None
        return int(content)


async def _post(port: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST /send HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        return await reader.read()
    finally:
        writer.close()


def _drawn_kind() -> str:
    return random.choices(list(SHARES), list(SHARES.values()))[0]
