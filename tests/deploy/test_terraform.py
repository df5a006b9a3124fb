"""The Terraform module: clean, tested with a provider that asks nobody, and applied to moto, where
it must bring about what the CloudFormation template does.

The provider is one of the machine's own, where one lies; else it is fetched as ever. It is
started once, and Terraform is told where: by itself it starts the provider anew for each step.
"""

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import REGION

from .conftest import DEPLOY, skipped_but_not_in_ci
from .permissions import grants
from .stacks import Account, document, stack
from .test_readme import blocks

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("stacks")]  # as test_table

MODULE = DEPLOY / "terraform"
MIRRORS = ("/opt/*", "/usr/local/share/terraform/plugins")  # as patterns
PROVIDER = "*/hashicorp/aws/*/*/terraform-provider-aws_*"
REATTACH = re.compile("TF_REATTACH_PROVIDERS='(.+)'")  # a provider says where it is reached

(BLOCK,) = blocks("Terraform")
INIT, APPLY = BLOCK.splitlines()

Follow = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the module, which is worked in."""
    made = tmp_path_factory.mktemp("terraform")
    shutil.copytree(MODULE, made / "deploy/terraform")
    return made


@pytest.fixture(scope="module")
def environment(folder: Path, moto_url: str) -> dict[str, str]:
    """What terraform is given: none of this machine's settings, and moto for AWS."""
    program = shutil.which("terraform")
    if program is None:
        skipped_but_not_in_ci("terraform is not installed")
    assert program is not None
    found = [glob.glob(f"{each}/*/hashicorp/aws") for each in MIRRORS]
    mirrors = [Path(each).parents[2] for places in found for each in places]
    return {
        "PATH": f"{Path(program).parent}:{os.defpath}", "HOME": str(folder),
        "GOGC": "400",  # the provider's start is a quarter garbage collection
        "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_CLI_ARGS": "-no-color",
        "TF_CLI_ARGS_init": " ".join(f"-plugin-dir={each}" for each in mirrors[:1]),
        "AWS_ENDPOINT_URL": moto_url, "AWS_REGION": REGION, "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


@pytest.fixture(scope="module")
def follow(folder: Path, environment: dict[str, str]) -> Iterator[Follow]:
    """Runs commands of the run-book beside the copy, once those before have initialised it."""

    def run(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False,
        )  # fmt: skip

    initialised = run(INIT)  # once: it takes seconds, and every other command wants it
    if initialised.returncode != 0:
        skipped_but_not_in_ci(f"there is no provider: {initialised.stdout[-500:]}")
    (provider,) = (folder / "deploy/terraform/.terraform/providers").glob(PROVIDER)
    with subprocess.Popen(
        [provider, "-debug"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            reached = next(filter(None, map(REATTACH.search, process.stdout)))
            environment["TF_REATTACH_PROVIDERS"] = reached[1]
            yield run
        finally:
            process.terminate()


def test_it_is_formatted(follow: Follow) -> None:
    assert follow("terraform -chdir=deploy/terraform fmt -check -recursive").stdout == ""


def test_its_own_tests_pass(follow: Follow) -> None:
    tested = follow("terraform -chdir=deploy/terraform test")
    assert tested.returncode == 0, tested.stdout
    assert "5 passed, 0 failed" in tested.stdout


def test_the_run_book_applies_it_and_it_is_what_cloudformation_makes(
    follow: Follow, account: Account
) -> None:
    done = follow(APPLY)
    assert done.returncode == 0, done.stdout
    mine = made(account, "counters", "idservice")
    backups = account.client("dynamodb").describe_continuous_backups(TableName="counters")
    assert "'PointInTimeRecoveryStatus': 'ENABLED'" in str(backups)
    account.forget("counters")
    roles = {"ServeRoleName": "same", "OperateRoleName": "same-operator"}
    with stack(account, "same", "table.yaml", "counters-same", **roles):
        assert made(account, "counters-same", "same") == mine


@pytest.fixture
def account(moto_url: str) -> Iterator[Account]:
    account = Account(moto_url)
    account.reset()
    yield account
    account.reset()


def made(account: Account, table: str, role: str) -> Any:
    """The table and the two roles, but for names."""
    dynamodb, iam = account.client("dynamodb"), account.client("iam")
    described = dynamodb.describe_table(TableName=table)["Table"]
    found: dict[str, Any] = {
        key: described[key]
        for key in ("KeySchema", "AttributeDefinitions", "BillingModeSummary",
                    "DeletionProtectionEnabled")
    }  # fmt: skip
    for name in (role, f"{role}-operator"):
        trusted = document(iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"])
        statements = account.statements(name)
        allowed = {(each.action, each.key) for each in grants(statements)}
        assert {each.table for each in grants(statements)} == {table}
        found[name.removeprefix(role)] = (trusted, allowed)
    return found
