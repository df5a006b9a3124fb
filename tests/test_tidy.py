"""The house rules, computed from our own source: rooms, floors, sizes, names and first words."""

import ast
import graphlib
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("tidy")  # all of them read one set of parsed modules
ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "idservice"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Floors, lowest first. A room imports from the floors below its own, and rooms of one floor do not
# know each other. `errors` has no floor: any room may raise one, and it imports nothing of ours.
FLOORS = [
    ["core"],
    ["client", "observability"],
    ["stores"],
    ["access", "allocation", "catalogue", "tallies"],
    ["web"],
    ["server"],
    ["cli"],
    ["__main__"],
]
ANYWHERE = {"", "errors"}  # the package itself, with its version, and the errors
ENTRIES_MAX, FLOORS_MAX = 15, 8
LINES_MAX, FUNCTION_MAX = 400, 60
TEST_NAME_MAX = 80
PURE = {
    "collections", "collections.abc", "dataclasses", "enum", "hashlib", "hmac", "itertools", "math",
    "re", "typing", "zlib",
}  # fmt: skip
TEST = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
QUESTION = re.compile(r"(who|whoever|what|whatever|whose|whether|those|how)\b", re.IGNORECASE)

Found = dict[str, list[str]]  # by file: what is wrong in it


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module, parsed: only where it is asked for, since each worker collects all tests."""
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """What every module is made of, at any depth."""
    return {name: list(ast.walk(tree)) for name, tree in trees().items()}


def imports(name: str) -> set[str]:
    """Modules that a module imports. A name imported from a package is the module of that name, if
    there is one."""
    found = set()
    for node in nodes()[name]:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in MODULES else node.module)
    return found - {name}


@cache
def graph() -> dict[str, set[str]]:
    return {name: imports(name) for name in MODULES}


def room(name: str) -> str:
    """The room of a module: `idservice.web.app` is in `web`."""
    return name.split(".")[1] if "." in name else ""


def file(name: str) -> str:
    return str(MODULES[name].relative_to(ROOT))


def reached(name: str) -> set[str]:
    """Modules that are loaded, directly or not, by importing this one."""
    found, todo = set(), [name]
    while todo:
        for other in graph().get(todo.pop(), ()):
            packages = [other.rsplit(".", cut)[0] for cut in range(other.count(".") + 1)]
            new = {module for module in (other, *packages) if module not in found}
            found |= new
            todo += new
    return found


# --- structure ------------------------------------------------------------------------------------


def test_the_package_has_few_entries_and_each_room_has_a_floor() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= ENTRIES_MAX
    assert len(FLOORS) <= FLOORS_MAX
    rooms = [room for floor in FLOORS for room in floor]
    assert sorted([*rooms, "errors", "__init__", "py"]) == sorted(entries)


def upward() -> Found:
    """Imports that do not point down, or that lead to another room of the same floor."""
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    found: Found = defaultdict(list)
    for name, used in graph().items():
        mine = room(name)
        for other in sorted(used & MODULES.keys()):
            theirs = room(other)
            if theirs in ANYWHERE or theirs == mine:
                continue
            if mine in ANYWHERE or floor_of[theirs] >= floor_of[mine]:
                found[file(name)].append(f"imports {other}")
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    inside = {name: used & MODULES.keys() for name, used in graph().items()}
    tuple(graphlib.TopologicalSorter(inside).static_order())  # raises CycleError


def exposed() -> Found:
    """Modules of `allocation` that load the library of the metrics page."""
    found: Found = defaultdict(list)
    for name in graph():
        if room(name) == "allocation" and "prometheus_client" in reached(name):
            found[file(name)].append("loads prometheus_client")
    return found


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room(name) == "core"))
def test_the_core_is_pure(name: str) -> None:
    assert {other for other in graph()[name] if not other.startswith("idservice")} <= PURE


# --- sizes ----------------------------------------------------------------------------------------


def too_long() -> Found:
    """Files and functions that are longer than a reader can hold in mind."""
    found: Found = defaultdict(list)
    for name, path in MODULES.items():
        lines = path.read_text().count("\n")
        if lines > LINES_MAX:
            found[file(name)].append(f"has {lines} lines")
        for node in nodes()[name]:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_MAX:
                    found[file(name)].append(f"{node.name} has {length} lines")
    return found


# --- names and words ------------------------------------------------------------------------------


def homonyms() -> Found:
    """Classes whose name another module of the package gives to another class."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, inside in nodes().items():
        for node in inside:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(file(name))
    found: Found = defaultdict(list)
    for name, files in places.items():
        for where in files if len(files) > 1 else ():
            found[where].append(f"{name} is in {', '.join(sorted(files))}")
    return found


def questions() -> Found:
    """Docstrings that begin as a question does, and so name nothing."""
    found: Found = defaultdict(list)
    for name, inside in nodes().items():
        for node in inside:
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and QUESTION.match(ast.get_docstring(node) or ""):
                found[file(name)].append(getattr(node, "name", "the file"))
    return found


def long_names() -> Found:
    """Tests whose name is a story; the story belongs into the docstring."""
    found: Found = defaultdict(list)
    for path in TESTS:
        for name in TEST.findall(path.read_text()):
            if len(name) > TEST_NAME_MAX:
                found[str(path.relative_to(ROOT))].append(name)
    return found


def has_text(node: ast.AST) -> bool:
    """Whether a class is an error, whose `text` says what it is."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "text"
        for each in node.body
    )


def test_every_file_and_every_public_name_has_a_docstring() -> None:
    bare = [file(name) for name, tree in trees().items() if not ast.get_docstring(tree)]
    bare += [
        f"{name}.{node.name}"
        for name, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not has_text(node)
    ]
    assert not bare


def test_tests_do_not_sleep_unless_they_run_processes() -> None:
    sleeping = []
    for path in TESTS:
        text = path.read_text()
        if path == Path(__file__) or "pytest.mark.process" in text or "simulation" in path.parts:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if "sleep(" in line and "sleep(0)" not in line:
                sleeping.append(f"{path.relative_to(ROOT)}:{number}")
    assert not sleeping


def test_a_group_of_tests_stays_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Some version of pytest lets xdist forget its groups: each then makes its set-up six times."""
    grouped = bool(request.config.getoption("loadgroup", default=False))
    assert request.node.nodeid.endswith("@tidy") == grouped


# --- all of these ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [upward, exposed, too_long, homonyms, questions, long_names], ids=lambda f: f.__name__
)
def test_no_file_breaks_a_rule(rule: Callable[[], Found]) -> None:
    assert not rule(), rule.__doc__
