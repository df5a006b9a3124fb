"""Log lines as machines and as people read them."""

import ast
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from idservice.observability import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(form: str, worker: int | None = None) -> str:
    stream = io.StringIO()
    # Not `set_up` with force: that closes the handlers of whoever runs the tests.
    root = logging.getLogger()
    root.handlers[:] = []
    logs.set_up(form, stream, worker=worker)
    logging.getLogger("idservice.test").warning("so it is", extra={"action": "tested"})
    return stream.getvalue()


def test_a_line_for_machines_has_a_stable_word_and_names_the_worker() -> None:
    line = json.loads(logged("json"))
    assert line.keys() == {"time", "level", "logger", "action", "message"}
    line = json.loads(logged("json", 3))
    assert (line["action"], line["worker"], line["pid"]) == ("tested", 3, os.getpid())


def test_a_line_for_people_names_the_worker() -> None:
    assert logged("text").endswith(" WARNING so it is\n")
    assert logged("text", 3).endswith(" WARNING worker 3: so it is\n")


class Full(io.StringIO):
    """A disk that takes nothing more."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_that_nothing_can_be_written_is_said_once_and_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger().handlers[:] = []
    logs.set_up("json", Full())
    for _ in range(3):
        logging.getLogger("idservice.test").warning("so it is")
    said = capsys.readouterr().err
    assert said == "idservice: the log cannot be written: No space left on device\n"


# --- docs/logs.md ---------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent.parent
DESCRIBED = ROOT / "docs" / "logs.md"
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}


def loggers(tree: ast.Module) -> set[str]:
    """What a module calls its loggers."""
    made = [node for node in tree.body if isinstance(node, ast.Assign)]
    named = {ast.unparse(one.targets[0]) for one in made if "getLogger(" in ast.unparse(one.value)}
    return named - {"access_log"}  # aiohttp writes there


def records() -> Iterator[tuple[str, str]]:
    """The action and the level of each record that the code may write."""
    for path in (ROOT / "idservice").rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = loggers(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in LEVELS:
                continue
            extra = [word.value for word in call.keywords if word.arg == "extra"]
            if ast.unparse(call.func.value) in names or extra:
                assert extra, f"{path.name}:{call.lineno} has no action"
                yield ast.literal_eval(extra[0])["action"], LEVELS[call.func.attr]


@pytest.mark.skipif(not DESCRIBED.exists(), reason="an installation without the pages beside it")
def test_every_action_that_is_logged_is_described_with_its_level_and_no_other() -> None:
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (info|warning|error) \|", DESCRIBED.read_text(), re.MULTILINE
    )
    written = set(records()) - {("ids_not_claimed", "warning")}  # said in its row
    assert len(written) > 40
    assert rows == sorted(written)


@pytest.mark.skipif(not DESCRIBED.exists(), reason="an installation without the pages beside it")
def test_every_field_of_a_line_is_described_and_no_other() -> None:
    section = DESCRIBED.read_text().partition("## Fields")[2].partition("\n## ")[0]
    first_cells = "".join(re.findall(r"(?m)^\| (`.*?) \|", section))
    try:
        raise ValueError
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "so", (), sys.exc_info())
    line = json.loads(logs.JsonLines(worker=1).format(record))
    assert re.findall("`([a-z]+)`", first_cells) == list(line)
