"""Commands that ask a running service. What runs every few seconds loads no HTTP library."""

import argparse
import json
import os
from collections.abc import Mapping

from idservice import errors
from idservice.cli import http_get

TIMEOUT_S = 20.0


def asks_service(arguments: argparse.Namespace) -> bool:
    """Whether a running service is asked, and not a store. Raises Usage."""
    if arguments.url_said and arguments.store_said:
        raise errors.Usage(why="--url and --store cannot both be asked; name one")
    return arguments.url is not None and not arguments.store_said


def show(arguments: argparse.Namespace) -> int:
    """Show a counter as a service tells it: also what it holds in memory, and lost."""
    body = _asked(arguments.url, f"/v1/counters/{arguments.name}", accept="application/json")
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
    """Take ids of a counter; of the service's default one where none is named."""
    target = f"/v1/counters/{name}/next" if arguments.name else "/next"
    target += f"?count={arguments.count or 1}"
    print(_asked(arguments.url, target, accept="text/plain"), end="")
    return 0


def health(arguments: argparse.Namespace) -> int:
    """Ask a service whether it lives."""
    url = arguments.url or http_get.default_url(os.environ)
    path = "/readyz" if arguments.ready else "/livez"
    status, body = http_get.ask(url, path, timeout=2.0)
    print(body if status == 200 else http_get.detail(status, body))
    return 0 if status == 200 else 1


def wait(arguments: argparse.Namespace) -> int:
    """Wait for a service to be ready."""
    url = arguments.url or http_get.default_url(os.environ)
    print(http_get.wait_until_ready(url, timeout=arguments.timeout))
    return 0


def _asked(url: str, target: str, *, accept: str) -> str:
    """What a service answers. Raises RefusedBy, NoAnswer."""
    status, body = http_get.ask(url, target, timeout=TIMEOUT_S, accept=accept)
    if status != 200:
        raise http_get.RefusedBy(url=url, why=http_get.detail(status, body))
    return body


def print_rows(rows: Mapping[str, object]) -> None:
    """One line for each, as `show` prints a counter."""
    for key, value in rows.items():
        print(f"{key + ':':10} {value}")
