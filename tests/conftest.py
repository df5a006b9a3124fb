"""Fixtures for every room: a clean environment, an initialised store, the DynamoDB engines."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idservice.__main__ import main
from idservice.stores import chained
from idservice.stores.dynamodb import client
from tests import engines, leaks
from tests.processes import STORE

if TYPE_CHECKING:
    from tests.certificates import Files

# jsonschema would make the grammars of internationalised addresses for 2 s; no schema here has one.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
# What is started in the background of a script has Ctrl-C ignored, and so have the programs that it
# starts. Some of them are told to end by these signals.
for each in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(each) == signal.SIG_IGN:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
gc.disable()  # until all is collected: it would look through libraries and tests again and again
PROCESSES_END = 0.9  # the share of the run in which tests of processes begin


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: three for each core, since tests that run processes wait for most of their
    time (with two, cores idle for a fifth of it). Those of `make quick` wait for the disk only."""
    return (os.cpu_count() or 1) * (2 if config.option.markexpr == "quick" else 3)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """On a new clone the workers compile the tests together: each imports a share of them first.
    In one order they would all compile the same module at the same time."""
    if (worker := getattr(session.config, "workerinput", None)) is None:
        return
    number, workers = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    root = session.config.rootpath
    found = [
        path.absolute() for each in session.config.args for path in Path(each).rglob("test_*.py")
    ]
    for path in sorted(found)[number::workers]:
        with suppress(Exception, pytest.skip.Exception):  # the collection tells of it
            import_module(".".join(path.relative_to(root).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` runs, and mix the tests that run processes with the others: those wait
    while these compute. None comes last, for they take longest."""
    process: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        (process if "process" in marks else others).append(item)
        bound = marks & {"process", "long"} or any(name.startswith("needs_") for name in marks)
        if not bound and "moto" not in item.name and "moto_url" not in item.fixturenames:
            item.add_marker("quick")
    at = {item: place / len(process) * PROCESSES_END for place, item in enumerate(process)}
    at |= {item: place / len(others) for place, item in enumerate(others)}
    begun: dict[str, float] = {}  # a group stays together, also where one worker runs all
    for item in sorted(items, key=lambda item: at[item]):
        if group := item.get_closest_marker("xdist_group"):
            at[item] = begun.setdefault(group.args[0], at[item])
    items.sort(key=lambda item: at[item])


def pytest_collection_finish() -> None:
    """Begin to collect garbage, but for what lives to the end: libraries, thousands of tests."""
    gc.freeze()
    gc.set_threshold(7000)
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around what captures the output
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that got to see an access key where none may be."""
    yield
    leaks.refuse(item, "setup", "call")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """The same of what is read at the end, as from processes that are ended."""
    yield
    leaks.refuse(item, "teardown")


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """Settings of whoever runs the tests, credentials among them, reach no test."""
    before, clean = dict(os.environ), engines.clean_environment()
    os.environ.clear()
    os.environ.update(clean)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _made_once() -> None:
    """What takes long and is the same for all tests: descriptions of services, and sessions."""
    engines.read_models_once()
    engines.share_a_session()


@pytest.fixture(scope="session", autouse=True)
def _patience() -> None:
    """A store that is there is connected to, and answers, on a machine that does ten other things.
    A test of these limits sets its own."""
    client.CONNECT_MAX_S = chained.CONNECT_MAX_S = 60.0
    client.CALL_MAX_S = 60.0


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """What a command or a service does to the log of this process ends with its test."""
    known, root = logging.Logger.manager.loggerDict, logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: each.level for name, each in known.items() if isinstance(each, logging.Logger)}
    yield
    root.handlers[:] = handlers
    if root.level != level:
        root.setLevel(level)
    for name, each in known.items():
        if isinstance(each, logging.Logger) and each.level != levels.get(name, logging.NOTSET):
            each.setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an initialised store, `processes.STORE`, for processes to run in."""
    kind, _, name = STORE.partition(":")
    assert main(["init", "--store", f"{kind}:{tmp_path / name}"]) == 0
    return tmp_path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> "Files":
    """A certificate for this machine; no test changes its files."""
    from tests.certificates import write  # loads what few tests need

    return write(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def moto_url(_environment: None) -> Iterator[str]:
    """One moto server for the whole run; every test takes a table of its own."""
    with engines.moto() as url:
        yield url


@pytest.fixture(scope="session")
def dynoxide_url(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One dynoxide for the whole run. Without it tests are skipped, but not in CI."""
    missing = engines.why_no_dynoxide()
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{missing} (CI must not skip it)")
    if missing:
        pytest.skip(missing)
    folder: Path = tmp_path_factory.mktemp("dynoxide")
    with engines.dynoxide(folder) as url:
        yield url
