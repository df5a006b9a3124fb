"""The house rules, checked on our own source."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "idservice"
SOURCES = sorted(PACKAGE.rglob("*.py"))

PURE = {"dataclasses", "enum", "typing", "collections", "collections.abc", "math"}
LINES_MAX = 400
FUNCTION_MAX = 60
# A guide, not a gate: what is longer is listed with the reason.
LONGER = {
    "core/allocator.py": "one state machine; its parts share every field",
    "stores/protocol.py": "one interface, and the records it takes and gives",
    "stores/sqlite/store.py": "one engine behind one protocol",
    "stores/dynamodb/store.py": "the other one",
    "allocation/local_counter.py": "one counter's life: who is let in, and what speaks against it",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """The modules a file imports; a name imported from a package counts as the module it may be."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if (ROOT / below.replace(".", "/")).with_suffix(".py").exists()
                          else node.module)  # fmt: skip
    return found


def graph() -> dict[str, set[str]]:
    """The modules of the package, each with those that it imports."""
    modules = {module_name(path): imports(path) for path in SOURCES}
    return {name: {other for other in used if other in modules} for name, used in modules.items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    tuple(graphlib.TopologicalSorter(graph()).static_order())


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_the_core_is_pure(path: Path) -> None:
    outside = {name for name in imports(path) if not name.startswith("idservice")}
    assert outside <= PURE


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path))
def test_a_file_opens_with_what_it_knows_and_keeps_its_size(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no opening sentence"
    lines = text.count("\n")
    if str(path.relative_to(PACKAGE)) not in LONGER:
        assert lines <= LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_MAX, f"{node.name} has {length} lines"


def test_every_public_name_has_a_docstring() -> None:
    bare = []
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                bare.append(f"{module_name(path)}.{node.name}")
    assert not bare


def test_tests_do_not_sleep_unless_they_run_processes() -> None:
    sleeping = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        if path == Path(__file__) or "pytest.mark.process" in text or "simulation" in path.parts:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if "sleep(" in line and "sleep(0)" not in line:
                sleeping.append(f"{path.relative_to(ROOT)}:{number}")
    assert not sleeping
