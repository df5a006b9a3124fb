"""The page about the architecture names files, functions and rooms that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "idservice"
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGE = ROOT / "docs" / "explanation" / "architecture.md"

pytestmark = pytest.mark.skipif(
    not PAGE.exists(), reason="an installation without the pages beside it"
)

QUESTIONS = """
change when ids are given back
decide 410
size a block
apply a new epoch to blocks in memory
add a setting
add a route
add a store
add a gap cause
add a metric
add a check of doctor
add a kind of change
read a failed condition
""".strip().splitlines()


def names(path: Path) -> set[str]:
    """Return the names that a module defines, those of a class's members as `Class.member`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            for member in node.body:
                found |= {f"{node.name}.{name}" for name in defined(member)}
        found |= defined(node)
    return found


def defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def answers() -> dict[str, list[tuple[str, str]]]:
    """Return the files and names that answer each question."""
    section = PAGE.read_text().partition("## Where do I")[2].partition("\n## ")[0]
    items = re.split(r"(?m)^\* ", section)[1:]
    split = [item.partition(":") for item in items]
    return {
        question.strip("*"): re.findall(r"`([\w/]+\.py)`\s+·\s+`([\w.]+)`", answer)
        for question, _, answer in split
    }


def test_the_twelve_questions_have_an_answer() -> None:
    assert [each for each in QUESTIONS if not answers().get(each)] == []


@pytest.mark.parametrize("question", answers() if PAGE.exists() else [])
def test_an_answer_names_a_file_and_a_function(question: str) -> None:
    missing = [
        (file, name)
        for file, name in answers()[question]
        if not (PACKAGE / file).exists() or name not in names(PACKAGE / file)
    ]
    assert not missing


@pytest.mark.parametrize("page", [PAGE, *PAGE.parent.glob("*.md")], ids=lambda page: page.name)
def test_every_path_in_the_explanations_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", page.read_text()))
    places = (ROOT, PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "docs")
    assert not [name for name in named if not any((place / name).exists() for place in places)]


def states() -> list[tuple[str, str, list[str]]]:
    """Return the file, the enum and the states of each table of states."""
    section = PAGE.read_text().partition("## States\n")[2].partition("\n## ")[0]
    return [
        (named[1], named[2], re.findall(r"(?m)^\| ([A-Z_]+) \|", part))
        for part in section.split("\n### ")
        if (named := re.search(r"In `([\w/]+)\.py` · `(\w+)`", part))
    ]


@pytest.mark.parametrize(("file", "enum", "named"), states() if PAGE.exists() else [])
def test_a_table_has_the_states_of_the_code(file: str, enum: str, named: list[str]) -> None:
    module = importlib.import_module(f"idservice.{file.replace('/', '.')}")
    assert named == [state.name for state in getattr(module, enum)]


def test_every_name_in_the_glossary_is_a_class() -> None:
    classes = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"(?m)^ *class (\w+)", path.read_text())
    }
    section = GLOSSARY.read_text().partition("## Names in the code")[2]
    named = set(re.findall(r"`([A-Z]\w+)`", section))
    assert len(named) > 30
    assert not named - classes


def test_every_benchmark_is_described() -> None:
    page = (PAGE.parent / "performance.md").read_text()
    assert set(re.findall(r"(?m)^###? (\w+): ", page)) == set(BENCHMARKS)
