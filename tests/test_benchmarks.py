import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_benchmarks_run_and_print_a_row_for_each_measure() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick"]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)

    names = [line.split("|")[1].strip() for line in ran.stdout.splitlines() if "|" in line][2:]
    assert {"send, 100 concurrent producers", "handle, 200,000 waiting"} <= set(names)
    assert names[-1] == "idle latency, send to handler"
    assert ran.stderr == ""
