"""cfn-lint reads the templates and the task definitions: all at once, for it takes 2 s to start."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .stacks import TEMPLATES
from .test_ecs import TASKS, Task, task

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("lint")]

# Moto brings it. A quarter of its time is garbage collection.
LINT = "import gc; gc.disable(); from cfnlint.runner import main; main()"


@pytest.fixture(scope="module")
def wrong_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("templates") / "wrong.yaml"
    text = (TEMPLATES / "table.yaml").read_text()
    path.write_text(text.replace("DeletionProtectionEnabled:", "DeletionProtection:"))
    return path


@pytest.fixture(scope="module")
def wrong_tasks() -> dict[str, Task]:
    wrong = copy.deepcopy({f"{name}x": task(name) for name in TASKS})
    wrong["servicex"]["memory"] = "4096"
    wrong["sidecarx"]["cpu"] = wrong["borrowingx"]["cpu"] = "500"
    return wrong


@pytest.fixture(scope="module")
def found(
    wrong_template: Path, wrong_tasks: dict[str, Task], tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    """What cfn-lint says."""
    tasks = tmp_path_factory.mktemp("tasks") / "template.json"
    tasks.write_text(as_template({**{name: task(name) for name in TASKS}, **wrong_tasks}))
    files = [*sorted(TEMPLATES.glob("*.yaml")), wrong_template, tasks]
    done = subprocess.run(
        [
            sys.executable, "-c", LINT, "--format", "json",
            "--regions", "eu-central-1", "us-east-1", "--", *files,
        ],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return list(json.loads(done.stdout))


def as_template(tasks: dict[str, Task]) -> str:
    """Task definitions, written as CloudFormation has them."""

    def cased(value: Any) -> Any:
        if isinstance(value, list):
            return [cased(each) for each in value]
        if isinstance(value, dict):
            return {
                key[0].upper() + key[1:]: each if key == "options" else cased(each)
                for key, each in value.items()
            }
        return value

    resources = {
        name: {"Type": "AWS::ECS::TaskDefinition", "Properties": cased(tasks[name])}
        for name in tasks
    }
    return json.dumps({"Resources": resources})


def test_templates_are_clean_and_a_fault_in_one_is_found(
    found: list[Any], wrong_template: Path
) -> None:
    said = [(each["Filename"], each["Rule"]["Id"]) for each in found]
    assert [each for each in said if each[0].endswith(".yaml")] == [(str(wrong_template), "E3002")]


def test_sizes_are_what_fargate_has(found: list[Any], wrong_tasks: dict[str, Task]) -> None:
    said = [each for each in found if each["Filename"].endswith(".json")]
    places = {str(each["Location"]["Path"][1]) for each in said}
    assert places == set(wrong_tasks), said
