"""Every command that the program, its alerts or its page print can be run as it stands.

Commands are collected from the text of the code and of these files, so a new one cannot escape: a
part that the test does not know how to fill in fails it. Tests of the run-book run its blocks.
"""

import ast
import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from idservice.cli import main
from idservice.cli.commands import COMMANDS
from tests.cli.test_main import Run, _here, run
from tests.processes import ROOT

__all__ = ["_here", "run"]  # fixtures, used by name

STORE = "sqlite:idservice.db"
FILES = ("deploy/monitoring/rules.yml", "idservice/web/status.html")
HINT = re.compile(rf"idservice (?:{'|'.join(COMMANDS)})\b[^`\n<#;()]*")
FIELD = re.compile(r"\$?\{+\s*\$?([^{}]*?)\s*\}+|\$(store_flag)")
# The values of fields, by the last word of the expression that fills them in.
FILLED = {
    "name": "NAME", "counter": "NAME", "tally": "NAME", "store": STORE, "address": STORE,
    "store_flag": STORE, "path": STORE, "at": f"--store {STORE}", "again": f"--store {STORE}",
    "to": "sqlite:other.db",
    "intent": "suspend NAME", "URL": "http://127.0.0.1:1", "amount": "1", "wanted": "2",
    "key": "k", "flag": "--floor", "id": "k7f3q9m2xw",
}  # fmt: skip
VALUES = {
    "N": "5",
    "URL": STORE,
    "S": "30",
    "AMOUNT": "3",
    "X": "2",
    "R": "use",
    "ID": "k7f3q9m2xw",
}
ENDLESS = ("serve", "top", "bench", "health", "wait")  # these are parsed, and not run


def texts(file: Path) -> Iterator[str]:
    """The texts of a module but its docstrings, with the source of each field in braces."""
    tree = ast.parse(file.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
              for part in ast.walk(node) if part is not node}  # fmt: skip
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside | said:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )


def hints() -> list[str]:
    """Every command that is printed somewhere, without its fields filled in."""
    # A module without such a word prints none; to parse all of them takes two seconds more.
    modules = (
        path
        for path in (ROOT / "idservice").rglob("*.py")
        if re.search("idservice (?!import)", path.read_text())
    )
    pages = [html.unescape((ROOT / name).read_text()) for name in FILES]
    book = re.sub(r"```.*?```", "", (ROOT / "deploy/README.md").read_text(), flags=re.DOTALL)
    book = re.sub(r"`idservice [a-z]+`", "", " ".join(book.split()))  # names of commands
    found = {
        re.split(r"[.,:'\"] |[.:]$|'\}| \| ", hint)[0].strip()
        for text in [book, *pages, *(text for module in modules for text in texts(module))]
        for hint in HINT.findall(_call_free(text))
    }
    return sorted(hint for hint in found if "…" not in hint)  # those are forms, as in a help


def _call_free(text: str) -> str:
    """Replace each field by its last word: of a call, that of its last argument."""
    return re.sub(
        r"\{[^{}]*\}",
        lambda field: f"{{{([*re.findall(r'[A-Za-z_]+', field[0])] or [''])[-1]}}}",
        text,
    )


@pytest.mark.long
def test_every_command_that_is_printed_can_be_run_as_it_stands(run: Run) -> None:
    assert run("init").code == 0
    failed, found = {}, hints()
    assert len(found) > 40, "they are collected"
    for number, hint in enumerate(found):
        name = f"c{number}"
        words = shlex.split(filled(hint).replace("NAME", name))[1:]
        words = [VALUES.get(word, word) for word in words]
        if name in words:
            kind = ["tally"] if words[0] == "tally" else []
            assert run(*kind, "create", name).code == 0
        if words[0] in ENDLESS:
            main._parser(words[0]).parse_args(words)
        elif (said := run(*words)).code == 2:
            failed[hint] = said.err
    assert not failed


def filled(hint: str) -> str:
    """Return a hint with its fields filled in."""

    def fill(field: re.Match[str]) -> str:
        word = (field[1] or field[2]).rpartition(".")[2]
        assert word in FILLED, f"{hint}: say in FILLED what stands for {word!r}"
        apart = "" if hint[field.start() - 1] == " " else " "
        return apart + FILLED[word]

    return FIELD.sub(fill, hint)


def test_no_output_advises_a_request_that_deployments_refuse() -> None:
    """A listener for ids changes nothing: a printed curl or PATCH is refused."""
    for module in (ROOT / "idservice").rglob("*.py"):
        if "curl" in module.read_text():  # to read the others takes two seconds
            for text in texts(module):
                assert "curl " not in text, (module, text)


def test_an_error_advises_with_the_store_that_was_named(run: Run) -> None:
    """Without it the advice of a command with --store is about the default file."""
    store = ("--store", "sqlite:other store.db")
    assert run("init", *store).code == 0
    assert run("create", "few", "--limit", "0", *store).code == 0
    assert run("next", "few", *store).code == 0
    said = run("next", "few", *store).err
    hint = re.findall("`(.*?)`", said)[0]
    assert hint == "idservice configure few --limit N --store 'sqlite:other store.db'"
    assert run(*shlex.split(hint.replace(" N ", " 5 "))[1:]).code == 0
    assert run("next", "few", *store).out == "1\n"
    assert run("suspend", "few", *store).code == 0
    (hint,) = re.findall("`(.*?)`", run("next", "few", *store).err)
    assert run(*shlex.split(hint)[1:]).code == 0
