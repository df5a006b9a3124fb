"""The loops under which listeners are tested: uvloop has transports, also of TLS, of its own."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both, where the difference is looked at."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_handshake.py":
        loops["uvloop"] = uvloop.new_event_loop
    return loops
