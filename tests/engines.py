"""The engines that tests of real processes run on: by the fixture `engine`, SQLite."""

import pytest

ON_BOTH_ENGINES = pytest.mark.parametrize("engine", ["sqlite", "postgres"])
"""For claims about the queue, whatever it is stored in."""
