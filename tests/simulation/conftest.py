"""The option that replays one seed."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, help="run the simulation with this seed only: pytest tests/simulation"
    )
