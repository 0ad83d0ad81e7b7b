"""Every case of the contract has a test, marked with its number."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_case_has_a_test() -> None:
    source = "".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))

    held = set(map(int, re.findall(r"@pytest\.mark\.case\((\d+)\)", source)))

    assert held >= set(range(1, 108))
