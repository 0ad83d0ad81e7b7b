import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number): the case of the contract that a test holds")
