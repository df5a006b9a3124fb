"""The README and the pages beside it keep up with the code."""

import re
from pathlib import Path

import pytest

from idservice import client, errors
from idservice.catalogue import describe
from idservice.cli import http_get
from idservice.client import protocol
from idservice.core.allocator import FROM_MEMORY
from idservice.observability import status
from idservice.server import settings
from idservice.server.workers.totals import KILLED
from idservice.web import app, connection

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

pytestmark = pytest.mark.skipif(
    not README.exists() or "IDSERVICE_" not in README.read_text(),
    reason="an installation without the README",
)


def prose() -> str:
    return "\n".join(path.read_text() for path in (README, *sorted(ROOT.glob("docs/**/*.md"))))


def every_error_class(
    kind: type[errors.IdserviceError] = errors.IdserviceError,
) -> set[type[errors.IdserviceError]]:
    """A class and all below it."""
    assert app.NotReady
    assert client.NotOpen
    assert protocol.Refused
    assert http_get.NoAnswer  # errors that live outside of errors.py are loaded
    return {kind}.union(*(every_error_class(below) for below in kind.__subclasses__()))


def every_error() -> set[str]:
    """The codes of all."""
    return {kind.code for kind in every_error_class()}


def test_the_readme_names_every_setting() -> None:
    text = prose()
    missing = [
        setting.flag
        for setting in settings.ALL.values()
        if not re.search(re.escape(setting.flag) + r"(?![a-z-])", text)
    ]
    assert not missing


def test_the_readme_names_no_setting_that_is_gone() -> None:
    known = {setting.flag for setting in settings.ALL.values()}
    table = re.findall(r"^\| `(--[a-z-]+)", README.read_text(), re.MULTILINE)
    assert len(table) >= len(settings.SERVE)
    assert set(table) <= known


def test_the_readme_states_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `(--[a-z-]+).*?` \| ([^|]*) \|", README.read_text(), re.MULTILINE))
    for setting in (*settings.SERVE, *settings.BENCH):
        if type(setting.default) in (int, float):
            assert float(rows[setting.flag]) == setting.default


def test_the_readme_names_every_error_code() -> None:
    text = prose()
    missing = sorted(code for code in every_error() if f"`{code}`" not in text)
    assert not missing
    assert b'"code":"too_many_connections"' in connection.TOO_MANY


def test_the_readme_s_table_of_causes_of_gaps_is_the_one_that_is_shown() -> None:
    section = README.read_text().partition("### Causes of gaps")[2].partition("\n#")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", section, re.MULTILINE))
    assert rows == describe.GAPS


def test_the_readme_s_table_of_states_is_the_one_that_is_shown() -> None:
    section = README.read_text().partition("### At a glance")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.*`) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z]+)`", row)}
    assert named | {"active"} == set(status.LEVELS)


def test_every_cause_of_a_gap_in_the_code_is_explained() -> None:
    text = "".join(path.read_text() for path in (ROOT / "idservice").rglob("*.py"))
    named = re.findall(r"""(?:cause=|_forget\(|retire\(|lost\(|_drop\(|_gap\()"([a-z_]+)\"""", text)
    assert {*named, *FROM_MEMORY, "unknown", "late", "claim", KILLED} == set(describe.GAPS)


def test_every_test_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:[a-z]+/)*(?:test_)?[a-z_]+\.py)`", README.read_text()))
    tests = {name for name in named if not name.startswith(("idservice/", "benchmarks/"))}
    assert len(tests) > 15
    assert not [
        name for name in tests if not (ROOT / "tests" / name.removeprefix("tests/")).exists()
    ]
