"""The message that every peer is sent, and whether a peer is there."""

import json

from tests.benchmarks.floor import PAYLOAD

TYPE = "order.created"
DATA = json.loads(PAYLOAD)
MESSAGE = {"type": TYPE, "data": DATA}
TEXT = json.dumps(MESSAGE)
