"""Every case of CONTRACT.md that belongs to the queue has a test here."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ELSEWHERE = {83, 84, 85, 86, 88, 94, 96}
"""Those of `Kv`, and those that kill or start processes."""


def test_every_case_of_the_queue_has_a_test() -> None:
    source = "".join(path.read_text("utf-8") for path in HERE.glob("test_*.py"))

    held = set(map(int, re.findall(r"@pytest\.mark\.case\((\d+)\)", source)))

    assert held == set(range(58, 108)) - ELSEWHERE
