"""Every case of the contract that belongs to the queue has a test, marked with its number."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
OF_KV = {83, 84, 85, 86}
"""Checks, nonces and mutations, which come with the key-value face."""


def test_every_case_of_the_queue_has_a_test() -> None:
    source = "".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))

    held = set(map(int, re.findall(r"@pytest\.mark\.case\((\d+)\)", source)))

    assert held >= set(range(58, 108)) - OF_KV
