"""The public surface, frozen in `surface.txt`: a change is a line there and in the change log.

What is looked at is what a user sees: the package's names, the commands, a running service, and
what a store holds afterwards.
"""

import ast
import contextlib
import inspect
import io
import json
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from idservice import client
from idservice.__main__ import main
from tests import engines
from tests.processes import ROOT, STORE, Serving

pytestmark = pytest.mark.process
FROZEN = Path(__file__).with_name("surface.txt")


def test_the_public_surface_is_the_frozen_one(
    folder: Path, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "1000")  # no line of a help is wrapped
    found = [
        *_client(), *_commands(), *_served(folder), *_actions(), *_sqlite(), *_dynamodb(moto_url),
    ]  # fmt: skip
    (folder / "surface.txt").write_text("\n".join(found) + "\n")
    assert found == FROZEN.read_text().splitlines()


def _client() -> Iterator[str]:
    for name in sorted(client.__all__):
        thing = getattr(client, name)
        yield f"client {name} {_signature(thing)}"
        for method, value in sorted(vars(thing).items()):
            if not method.startswith("_") and callable(value):
                yield f"client {name}.{method} {_signature(value)}"


def _signature(thing: object) -> str:
    return str(inspect.signature(thing)).replace("'", "") if callable(thing) else "-"


def _commands() -> Iterator[str]:
    """The commands, their arguments, and the variable and default that their help names."""
    names = list(_names())
    yield from (f"command {name}" for name in names)
    for name in names:
        text = _help(*name.split())
        for flag, said in re.findall(r"^  (-\S+(?: \S+)*)(.*)$", text, re.MULTILINE):
            yield " ".join(["command", name, flag, *re.findall(r"\[IDSERVICE_\w+\]", said)])
        for argument in re.findall(r"^  ([A-Z]+)  ", text, re.MULTILINE):
            if argument != "COMMAND":
                yield f"command {name} {argument}"


def _names(*group: str) -> Iterator[str]:
    for word in re.findall(r"^    ([a-z]+) ", _help(*group), re.MULTILINE):
        yield " ".join((*group, word))
        yield from _names(*group, word)


def _help(*command: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        main([*command, "--help"])
    return re.sub(r"\n {6,}", "  ", text.getvalue())  # a long flag's text begins in the next line


def _served(folder: Path) -> Iterator[str]:
    """Routes, and families of metrics, of a service that was asked for an id and refused one."""
    with Serving(folder, "--store", STORE, "--runway", "1000") as serving:
        url = f"http://127.0.0.1:{serving.port}"
        urllib.request.urlopen(f"{url}/next").close()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/next?count=0")
        for path, methods in json.load(urllib.request.urlopen(f"{url}/openapi.json"))[
            "paths"
        ].items():
            yield from (f"route {method.upper()} {path}" for method in methods if method in METHODS)
        page = urllib.request.urlopen(f"{url}/metrics").read().decode()
        serving.terminate()
        assert serving.end() == 0
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        labels = re.findall(rf"^{name}(?:_bucket)?{{(.*)}} ", page, re.MULTILINE)
        yield f"metric {name} {kind} {VALUES.sub('', labels[0]) if labels else ''}".rstrip()


VALUES = re.compile('="[^"]*"')
METHODS = ("get", "put", "post", "delete", "patch")


def _actions() -> list[str]:
    """The words that records of the log are searched and alerted by."""
    found = set()
    for path in (ROOT / "idservice").rglob("*.py"):
        text = path.read_text()
        if "extra=" not in text:
            continue  # it has no record, and to parse all of these takes half a second
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.keyword) and node.arg == "extra":
                (action,) = ast.literal_eval(node.value).values()
                found.add(f"action {action}")
    return sorted(found)


CHANGES = (
    ("create", "plain", "--start", "7", "--limit", "900"),
    ("create", "strict", "--strict"),
    ("create", "sharded", "--shards", "2"),
    ("create", "gone"),
    ("next", "plain"),
    ("next", "strict"),
    ("next", "sharded"),
    ("suspend", "plain", "--reason", "a test"),
    ("delete", "gone"),
)


def _changed(store: str) -> None:
    for change in CHANGES:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*change, "--store", store]) == 0, change


def _sqlite() -> Iterator[str]:
    _changed(STORE)
    with contextlib.closing(sqlite3.connect(STORE.partition(":")[2])) as database:
        for (statement,) in database.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        ):
            yield f"sqlite {' '.join(statement.split())}"
        for name, config in database.execute("SELECT name, config FROM entry ORDER BY name"):
            yield f"sqlite entry {name}: {' '.join(sorted(json.loads(config)))}"


def _dynamodb(url: str) -> Iterator[str]:
    store = f"dynamodb:surface?region={engines.REGION}&endpoint={url}"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["init", "--store", store]) == 0
    _changed(store)
    with engines.by_hand(url) as client:
        described = client.describe_table(TableName="surface")["Table"]
        yield f"dynamodb key {described['KeySchema']} {described['AttributeDefinitions']}"
        items = client.scan(TableName="surface")["Items"]
    for item in sorted(items, key=lambda item: item["pk"]["S"]):
        yield f"dynamodb item {item['pk']['S']}: {' '.join(sorted(_attributes(item)))}"


def _attributes(item: dict[str, dict[str, object]]) -> Iterator[str]:
    for name, value in item.items():
        ((kind, content),) = value.items()
        yield f"{re.sub('^w:.*', 'w:*', name)}={kind}"
        if isinstance(content, str) and content.startswith("{"):
            yield from (f"{name}.{field}" for field in json.loads(content))
