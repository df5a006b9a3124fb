"""The house rules, checked on our own source."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "idservice"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Floors, lowest first: a module imports only from floors below its own. Modules on one floor do not
# know each other, but for the order in which core's are listed.
FLOORS = [
    ["idservice", "idservice.errors", "idservice.finding"],
    ["idservice.core", "idservice.core.block", "idservice.figures", "idservice.standing"],
    [
        "idservice.core.epoch",
        "idservice.core.pace",
        "idservice.core.sizing",
        "idservice.core.writer",
        "idservice.core.unused",
        "idservice.exchange",
    ],
    ["idservice.core.shards"],
    ["idservice.core.allocator", "idservice.core.patience", "idservice.central"],
    ["idservice.client.stock", "idservice.client.wire"],
    ["idservice.client.asynchronous", "idservice.client.blocking"],
    ["idservice.client"],
    ["idservice.stores.protocol"],
    [
        "idservice.stores.chained_examine",
        "idservice.stores.dynamodb.items",
        "idservice.stores.refusal",
        "idservice.stores.shown",
        "idservice.stores.sqlite_examine",
        "idservice.stores.sqlite_returns",
        "idservice.stores.sqlite_writers",
    ],
    ["idservice.stores.dynamodb.client", "idservice.stores.sqlite_change"],
    ["idservice.stores.dynamodb.description"],
    [
        "idservice.stores.dynamodb.address",
        "idservice.stores.dynamodb.adopt",
        "idservice.stores.dynamodb.change",
        "idservice.stores.dynamodb.examine",
        "idservice.stores.dynamodb.recognition",
        "idservice.stores.dynamodb.reserve",
        "idservice.stores.dynamodb.returns",
        "idservice.stores.dynamodb.writers",
    ],
    ["idservice.stores.dynamodb.table"],
    ["idservice.stores.dynamodb.store"],
    ["idservice.stores.dynamodb", "idservice.stores.sqlite", "idservice.stores.chained"],
    ["idservice.stores"],
    ["idservice.doctor", "idservice.intents"],
    ["idservice.change"],
    ["idservice.counters", "idservice.direct", "idservice.metrics", "idservice.move"],
    ["idservice.pulse"],
    ["idservice.workers"],
    [
        "idservice.health",
        "idservice.line",
        "idservice.linger",
        "idservice.returns",
        "idservice.workers.totals",
        "idservice.workers.balance",
    ],
    ["idservice.workers.channel"],
    ["idservice.account", "idservice.batches", "idservice.doubt"],
    ["idservice.holding"],
    ["idservice.reservations"],
    ["idservice.refill"],
    ["idservice.supply"],
    ["idservice.catalogue", "idservice.closing", "idservice.finisher"],
    ["idservice.service", "idservice.workers.link"],
    ["idservice.workers.whole"],
    [
        "idservice.web",
        "idservice.web.ask",
        "idservice.web.describe",
        "idservice.web.form",
        "idservice.web.records",
        "idservice.web.sampled",
    ],
    ["idservice.web.guard", "idservice.web.render", "idservice.web.schemas"],
    ["idservice.web.status"],
    ["idservice.web.openapi", "idservice.web.page"],
    ["idservice.web.ids", "idservice.web.connection", "idservice.web.desk", "idservice.web.heads"],
    ["idservice.web.overview", "idservice.web.writer"],
    ["idservice.web.admin", "idservice.web.lane"],
    ["idservice.web.change"],
    ["idservice.web.app"],
    [
        "idservice.config",
        "idservice.listen",
        "idservice.logs",
        "idservice.loop",
        "idservice.newcomers",
        "idservice.workers.signals",
    ],
    ["idservice.exits", "idservice.listener", "idservice.probe", "idservice.start"],
    ["idservice.board"],
    ["idservice.screen"],
    ["idservice.top"],
    ["idservice.telemetry"],
    ["idservice.server", "idservice.workers.worker"],
    ["idservice.workers.parent"],
    ["idservice.serve"],
    [
        "idservice.bench",
        "idservice.bench.alarm",
        "idservice.bench.histogram",
        "idservice.bench.verdict",
        "idservice.bench.where",
    ],
    ["idservice.bench.answers"],
    ["idservice.bench.tally"],
    ["idservice.bench.load"],
    ["idservice.bench.report"],
    ["idservice.bench.run"],
    ["idservice.asking"],
    ["idservice.commands"],
    ["idservice.diagnose", "idservice.operate"],
    ["idservice.cli"],
    ["idservice.__main__"],
]
PURE = {"dataclasses", "enum", "typing", "collections", "collections.abc", "math"}
LINES_MAX = 350
FUNCTION_MAX = 60
# A guide, not a gate: what is longer is listed with the reason.
LONGER = {
    "errors.py": "one tree, a class for every error",
    "core/allocator.py": "one state machine; its parts share every field",
    "stores/protocol.py": "one interface, and the records it takes and gives",
    "stores/sqlite.py": "one engine behind one protocol",
    "stores/dynamodb/store.py": "the other one",
    "supply.py": "one counter's life: who is let in, and what speaks against it",
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


def floor_of(name: str) -> int:
    for floor, modules in enumerate(FLOORS):
        if name in modules:
            return floor
    raise AssertionError(f"{name} stands on no floor: add it to FLOORS")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: module_name(path))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    name = module_name(path)
    for other in imports(path):
        if other.split(".")[0] != "idservice" or other == name:
            continue
        if name == "idservice.stores" and other.startswith("idservice.stores."):
            continue
        assert floor_of(other) < floor_of(name), f"{name} imports {other}"


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


def test_the_floors_name_only_what_exists() -> None:
    known = {module_name(path) for path in SOURCES}
    assert {name for floor in FLOORS for name in floor} <= known
    assert sys.version_info >= (3, 11)
