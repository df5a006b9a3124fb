"""The reference keeps up with the code: generated pages are current, the others name everything."""

import ast
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from idservice.core.gap_causes import GapCause
from idservice.observability import logs, status
from idservice.stores import findings
from idservice.web import above_limit
from idservice.web.openapi import document
from idservice.web.request import WebLimits
from tests.docs import generate

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}

pytestmark = pytest.mark.skipif(
    not REFERENCE.exists(), reason="an installation without the pages beside it"
)


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def section(name: str, heading: str) -> str:
    return page(name).partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", generate.made())
def test_a_generated_page_is_current(name: str) -> None:
    """`make docs` writes it."""
    assert page(name) == generate.page(name)


# --- errors.md, gap-causes.md --------------------------------------------------------------------


def test_the_error_that_is_worded_in_advance_has_a_code_that_is_described() -> None:
    assert b'"code":"too_many_connections"' in above_limit.TOO_MANY
    assert "### `too_many_connections`" in page("errors.md")


def test_every_cause_of_a_gap_is_used_in_the_code() -> None:
    text = "".join(path.read_text() for path in (ROOT / "idservice").rglob("*.py"))
    assert [name for name in GapCause.__members__ if f"GapCause.{name}" not in text] == []


# --- http-api.md ----------------------------------------------------------------------------------


def test_the_page_of_the_http_api_names_every_operation() -> None:
    described = json.loads(document(WebLimits(1, 1)))["paths"]
    operations = {f"{method.upper()} {path}" for path, of in described.items() for method in of}
    assert set(re.findall(r"^### `([A-Z]+ \S+)`$", page("http-api.md"), re.MULTILINE)) == operations


def test_the_page_of_the_http_api_names_every_state() -> None:
    states = page("http-api.md").partition("States of a counter")[2].partition("\nWhat ")[0]
    named = re.findall(r"^\* (`.*`):", states, re.MULTILINE)
    assert {state for line in named for state in re.findall(r"`(\w+)`", line)} == set(status.LEVELS)


# --- log-actions.md -------------------------------------------------------------------------------


def loggers(tree: ast.Module) -> set[str]:
    """Return the names of a module's loggers."""
    made = [node for node in tree.body if isinstance(node, ast.Assign)]
    named = {ast.unparse(one.targets[0]) for one in made if "getLogger(" in ast.unparse(one.value)}
    return named - {"access_log"}  # aiohttp writes there


def records() -> Iterator[tuple[str, str]]:
    """Yield the action and the level of each record that the code may write."""
    for path in (ROOT / "idservice").rglob("*.py"):
        text = path.read_text()
        if not any(f".{level}(" in text for level in LEVELS):
            continue  # it writes none, and to parse all of these takes a second
        tree = ast.parse(text)
        names = loggers(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in LEVELS:
                continue
            extra = [word.value for word in call.keywords if word.arg == "extra"]
            if ast.unparse(call.func.value) in names or extra:
                assert extra, f"{path.name}:{call.lineno} has no action"
                yield ast.literal_eval(extra[0])["action"], LEVELS[call.func.attr]


def test_every_action_is_described_with_its_level() -> None:
    rows = re.findall(
        r"^\* `([a-z_]+)` \((\w+)\): ", section("log-actions.md", "Actions"), re.MULTILINE
    )
    written = set(records()) - {("ids_not_claimed", "warning")}  # its description says so
    assert len(written) > 40
    assert rows == sorted(written)


def test_every_field_of_a_line_is_described() -> None:
    named = "".join(re.findall(r"(?m)^\* (`.*?):", section("log-actions.md", "Fields")))
    try:
        raise ValueError
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "so", (), sys.exc_info())
    line = json.loads(logs.JsonLines(worker=1).format(record))
    assert re.findall("`([a-z]+)`", named) == list(line)


# --- doctor.md ------------------------------------------------------------------------------------


def about() -> set[str]:
    """Return the words that the findings in the code are about."""
    found = set()
    for path in (ROOT / "idservice").rglob("*.py"):
        text = path.read_text()
        if "Finding" not in text and "fine" not in text:
            continue  # it makes none, and to parse all of these takes a second
        for node in ast.walk(ast.parse(text)):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called in ("Finding", "fine"):
                found.add(node.args[called == "Finding"])
            elif isinstance(node, ast.Assign) and "about" in ast.unparse(node.targets[0]):
                found.add(node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value)
            elif isinstance(node, ast.arguments):
                named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
                found |= {value for name, value in named if name.arg == "about" and value}
    named = {getattr(findings, word.id, "") for word in found if isinstance(word, ast.Name)}
    return {str(word.value) for word in found if isinstance(word, ast.Constant)} | named - {""}


def test_every_check_of_doctor_is_described() -> None:
    named = set(
        re.findall(r"^\* `(\w+)`: ", page("doctor.md").partition("## Checks")[2], re.MULTILINE)
    )
    assert named == about()
