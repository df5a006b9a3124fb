"""Commands that ask a running service; they load no HTTP library."""

import argparse
import json
import os
from collections.abc import Mapping

from idservice import errors
from idservice.cli import http_get

TIMEOUT_S = 20.0


def asks_service(arguments: argparse.Namespace) -> bool:
    """Return True if a running service is asked, and not a store. Raises Usage."""
    if arguments.url_said and arguments.store_said:
        raise errors.Usage(why="--url cannot be combined with --store; name one of them")
    return arguments.url is not None and not arguments.store_said


def show(arguments: argparse.Namespace) -> int:
    """Show a counter as a service reports it, with its ids in memory and its gaps."""
    body = http_get.asked(arguments.url, f"/v1/counters/{arguments.name}", timeout=TIMEOUT_S)
    if arguments.json:
        print(body)
        return 0
    rows = json.loads(body)
    gaps = rows.pop("gaps")
    print_rows(rows)
    print(f"{'gaps:':10} {sum(gap['ids'] for gap in gaps.values())} since this service started")
    for cause, gap in gaps.items():
        print(f"  {cause:10} {gap['ids']}: {gap['why']}")
    return 0


def next_ids(arguments: argparse.Namespace, name: str) -> int:
    """Take ids of a counter; of the default counter of the service if none is named."""
    target = f"/v1/counters/{name}/next" if arguments.name else "/next"
    target += f"?count={arguments.count or 1}"
    print(http_get.asked(arguments.url, target, timeout=TIMEOUT_S), end="")
    return 0


def health(arguments: argparse.Namespace) -> int:
    """Ask a service if it is alive, or ready."""
    url = arguments.url or http_get.default_url(os.environ)
    path = "/readyz" if arguments.ready else "/livez"
    status, body = http_get.ask(url, path, timeout=2.0)
    print(body if status == 200 else http_get.detail(status, body))
    return 0 if status == 200 else 1


def wait(arguments: argparse.Namespace) -> int:
    """Wait until a service is ready."""
    url = arguments.url or http_get.default_url(os.environ)
    print(http_get.wait_until_ready(url, timeout=arguments.timeout))
    return 0


def print_rows(rows: Mapping[str, object]) -> None:
    """Print a line for each row, as `show` does."""
    for key, value in rows.items():
        print(f"{key + ':':10} {value}")
