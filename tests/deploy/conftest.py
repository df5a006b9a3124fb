"""kubectl and helm, as `make deployers` installs them."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT
from tests.programs import forked

DEPLOY = ROOT / "deploy"
DEPLOYERS = ROOT / ".deployers"
OLDEST = "1.29"  # version of Kubernetes that we promise

Documents = list[dict[str, Any]]
Command = Callable[..., str]
Render = Callable[[dict[str, Any]], Documents]


def skipped_but_not_in_ci(why: str) -> None:
    """A tool that is missing here skips a test; in CI it fails it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why} (CI must not skip it)")
    pytest.skip(why)


def needed(module: str) -> Any:
    """A module that `make deployers` installs; who imports it at the top is skipped without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{module} is not installed: run `make deployers`", allow_module_level=True)


def deployer(name: str) -> Path:
    """The path of kubectl or helm."""
    path = DEPLOYERS / name / name
    if not path.exists():
        skipped_but_not_in_ci(f"{name} is not installed: run `make deployers`")
    return path


class Failed(Exception):
    """A command that ended with another exit code than 0; its text is what was said."""


def run(program: Path, *arguments: str, folder: Path, stdin: str = "") -> str:
    """The output of a command, which gets nothing of this machine's own configuration."""
    environment = {"PATH": os.defpath, "HOME": str(folder)}
    done = subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True,
        input=stdin, timeout=180, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(done.stderr + done.stdout)
    return done.stdout


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs kubectl in the project's root and answers what it printed."""
    program, folder = deployer("kubectl"), tmp_path_factory.mktemp("kubectl")
    return lambda *arguments, **more: run(program, *arguments, folder=folder, **more)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs helm in the project's root and answers what it printed."""
    program, folder = deployer("helm"), tmp_path_factory.mktemp("helm")
    return lambda *arguments, **more: run(program, *arguments, folder=folder, **more)


@pytest.fixture(scope="session")
def with_values(helm: Command, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs helm on the chart with values."""
    path = tmp_path_factory.mktemp("values") / "values.json"

    def run(verb: str, values: dict[str, Any], *more: str) -> str:
        path.write_text(json.dumps(values))
        return helm(*verb.split(), "deploy/helm/idservice", "--values", str(path), *more)

    return run


@pytest.fixture(scope="session")
def render(with_values: Callable[..., str]) -> Render:
    """What the chart renders; each shape is rendered once."""
    known: dict[str, str] = {}

    def run(values: dict[str, Any]) -> Documents:
        key = json.dumps(values)
        if key not in known:
            known[key] = with_values("template ids", values, "--kube-version", OLDEST)
        return documents(known[key])

    return run


@pytest.fixture(scope="session")
def idservice(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of our command, which is forked."""
    with forked("idservice", tmp_path_factory.mktemp("idservice")) as program:
        yield program.parent


@pytest.fixture(scope="session")
def commands(idservice: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The PATH of `aws` and of those commands of ours that end by themselves."""
    if find_spec("awscli") is None:
        skipped_but_not_in_ci("aws is not installed: run `make deployers`")
    with forked("aws", tmp_path_factory.mktemp("aws")) as aws:
        yield f"{aws.parent}:{idservice}:{Path(sys.executable).parent}:{os.defpath}"


def documents(text: str) -> Documents:
    """What is in a stream of YAML."""
    return [document for document in yaml.safe_load_all(text) if document]
