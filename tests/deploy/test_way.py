"""The run-book beyond the first start, command by command, on moto: the table, the way over from
what was there before, and what is to be done later."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest
from moto.dynamodb.models.table import Table

from idservice.access.usage import LOOK_S
from idservice.allocation.catalogue_watch import POLL_S
from idservice.core.access_key import id_in
from idservice.server import settings
from tests.engines import REGION
from tests.guides.shell import Shell
from tests.processes import ROOT, START_S, Serving, command, environment, wait_until

from .gateway import Gateway, serving
from .permissions import grants
from .stacks import Account
from .test_readme import MINE, TEXT, blocks

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("run-book")]  # as test_readme

ADDRESS = "127.0.0.1:8080"  # wherever the run-book says it, and no test may listen there
MONTH_S = 30 * 86_400


class Follower:
    """Runs commands of the run-book as they stand, but for addresses: services get free ports."""

    def __init__(self, folder: Path, account: Account, commands: str, stack: ExitStack) -> None:
        self.folder = folder
        self.account = account
        self.address = ADDRESS
        self.variables = {
            "PATH": commands, "HOME": str(folder),
            "AWS_ENDPOINT_URL": account.url, "AWS_REGION": REGION,
            "IDSERVICE_WAIT": f"{START_S:g}",  # moto on a busy machine answers late
        }  # fmt: skip
        self._stack = stack

    def block(self, text: str) -> str:
        """One block; what it said."""
        said = ""
        text = text.replace("\\\n", " ")
        for part in re.split(r"^(idservice serve .*\n)", text, flags=re.MULTILINE):
            if part.startswith("idservice serve "):
                self.serve(part)
            elif part.strip():
                said += self.run(part.replace(ADDRESS, self.address))
        return said

    def serve(self, line: str) -> None:
        """A service, which is there until the end."""
        words = line.split()[2:]
        at = words.index("--listen")
        assert words[at + 1] == ADDRESS
        del words[at : at + 2]
        service = Serving(self.folder, *words, env=self.variables)
        self._stack.enter_context(service)
        self.address = f"127.0.0.1:{service.port}"

    def run(self, text: str) -> str:
        return Shell(self.folder, environment(self.variables)).run(text)


def describe_with_id(
    self: Table, base_key: str = "TableDescription", describe: Any = Table.describe
) -> Any:
    """What moto says of a table, with the id that AWS gives it and moto does not."""
    described = describe(self, base_key)
    described[base_key]["TableId"] = str(uuid5(NAMESPACE_URL, f"{self.name} {self.created_at}"))
    return described


@pytest.fixture
def follower(
    moto_url: str, commands: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Follower]:
    monkeypatch.setattr(Table, "describe", describe_with_id)
    account = Account(moto_url)
    account.reset()  # the run-book names tables, stacks and roles, and others may have them too
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    with ExitStack() as stack:
        yield Follower(tmp_path, account, commands, stack)
    account.reset()


def tables(account: Account) -> Mapping[str, Any]:
    dynamodb = account.client("dynamodb")
    return {
        name: dynamodb.describe_table(TableName=name)["Table"]
        for name in dynamodb.list_tables()["TableNames"]
    }


def followed(follower: Follower, heading: str) -> str:
    return "".join(follower.block(each) for each in blocks(heading))


def test_the_table_is_made_measured_restored_and_removed(follower: Follower) -> None:
    account = follower.account
    said = followed(follower, "The table")
    assert "dynamodb:counters is initialised" in said
    assert "fault 0, warning 0" in said
    assert "all distinct" in followed(follower, "Size it")
    assert_keys_are_replaced(follower, followed(follower, "Access keys"))
    restored, *rest = blocks("Restore and fence")
    follower.block(restored)
    account.client("dynamodb").update_table(  # which moto leaves out
        TableName="counters-restored", BillingMode="PAY_PER_REQUEST"
    )
    said = "".join(follower.block(each) for each in rest)
    assert "900001" in said.splitlines()
    assert_given_the_restored_table(account)
    copied, removed = blocks("Remove")
    assert "AVAILABLE" in follower.block(copied)
    account.detach("idservice")
    account.client("cloudformation").delete_stack(StackName="anew")
    follower.block(removed)
    assert set(tables(account)) == {"counters-restored"}
    assert not roles(account) & {"idservice", "idservice-operator"}


def assert_keys_are_replaced(follower: Follower, said: str) -> None:
    texts = [(follower.folder / f"{name}.key").read_text() for name in ("checkout", "second")]
    first, second = (id_in(text.strip()) for text in texts)
    assert first
    assert second
    assert first in said
    listed = follower.run("idservice key list --store dynamodb:counters --json")
    lines = [json.loads(line) for line in listed.splitlines() if line.startswith('{"id"')]
    states = {each["id"]: each["state"] for each in lines}
    assert (states[first], states[second]) == ("revoked", "active")


def assert_given_the_restored_table(account: Account) -> None:
    found = tables(account)
    assert set(found) == {"counters", "counters-restored"}
    assert all(each["DeletionProtectionEnabled"] for each in found.values())
    # Moto's stacks keep their policies when parameters change: a new one shows what they become.
    names = {"ServeRoleName": "serve-anew", "OperateRoleName": "operate-anew"}
    again = {"TableName": "counters-restored", "NewTable": "false"}
    assert again.items() <= account.parameters("idservice").items()
    account.create("anew", "table.yaml", {**again, **names})
    allowed = grants(account.statements("serve-anew"))
    assert {each.table for each in allowed} == {"counters-restored"}
    account.detach("anew")


def roles(account: Account) -> set[str]:
    return {each["RoleName"] for each in account.client("iam").list_roles()["Roles"]}


class OldEndpoint(threading.Thread):
    """Calls the API Gateway endpoint, 50 times a second, for as long as it answers with ids."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.got: list[int] = []
        self.ended = 0
        self._never = threading.Event()

    def run(self) -> None:
        while not self.ended and not self._never.wait(0.02):
            try:
                with urllib.request.urlopen(f"{self.url}/donations/next", timeout=60) as answer:
                    self.got.append(int(answer.read()))
            except urllib.error.HTTPError as error:
                self.ended = error.code
            except OSError:  # the test has ended before it
                self.ended = -1


def test_the_counter_of_api_gateway_is_taken_over_while_it_is_asked(follower: Follower) -> None:
    baseline, adopted, taken, finished = blocks("From the API Gateway counter")
    follower.block(baseline)
    account = follower.account
    with serving(Gateway.of(account, "original", account.url)) as url:
        old = OldEndpoint(url)
        old.start()
        follower.block(adopted)
        (first,) = map(int, re.findall(r"^\d+$", follower.block(taken), re.MULTILINE))
        got = [first, *called(follower.address, 300)]
        before = len(old.got)
        wait_until(lambda: len(old.got) > before + 20)
        got += called(follower.address, 300)
        follower.block(finished)
        old.join(START_S)
        assert old.ended == 503, "it goes on counting"
        got += called(follower.address, 300)
    assert old.got
    assert len(set(got + old.got)) == len(got + old.got), "repeated"
    assert {"counters", "donation-data"} <= set(tables(account))


def called(address: str, count: int) -> list[int]:
    """Ids by the old path."""
    with urllib.request.urlopen(f"http://{address}/donations/next?count={count}") as answer:
        return [int(line) for line in answer.read().split()]


def test_what_a_file_counted_goes_on_in_the_table(follower: Follower) -> None:
    file = ("--store", "sqlite:idservice.db")
    for words in (("init",), ("create", "orders", "--start", "700")):
        assert command(*words, *file, folder=follower.folder).returncode == 0
    taken = command("next", "orders", "--count", "5", *file, folder=follower.folder).stdout
    said = followed(follower, "From SQLite")
    assert said.count("moved to dynamodb:counters") == 2
    assert int(said.split()[-1]) > int(taken.split()[-1])


def test_keys_are_rotated(follower: Follower) -> None:
    iam = follower.account.client("iam")
    iam.create_user(UserName="idservice")
    old = iam.create_access_key(UserName="idservice")["AccessKey"]["AccessKeyId"]
    follower.variables["OLD_KEY"] = old
    made = followed(follower, "Rotate").split()[0]
    (left,) = iam.list_access_keys(UserName="idservice")["AccessKeyMetadata"]
    assert left["AccessKeyId"] == made != old


def test_figures_of_what_it_costs_follow_from_the_settings() -> None:
    size = TEXT.partition("\n## Size it\n")[2].partition("\n## ")[0]
    found = re.findall(r"\| ([\d,]+) \| ([\d,.]+) \|$", size, re.MULTILINE)
    rows, adds = found[:5], found[5:]
    writes, looks, reads, used, ids = (int(units.replace(",", "")) for units, _ in rows)
    assert writes == MONTH_S / settings.RUNWAY.default
    assert 1.0 < looks / (MONTH_S / POLL_S) < 1 / 0.85
    assert reads == MONTH_S / settings.RUNWAY.default
    assert used == pytest.approx(MONTH_S / LOOK_S, rel=0.01)
    assert ids == 100 * MONTH_S
    costs = [float(cost.replace(",", "")) for _, cost in rows]
    expected = [writes * 0.625e-6, looks * 0.125e-6, reads * 0.125e-6]
    expected += [used * 0.625e-6, ids * 4.125e-6]
    assert costs == [pytest.approx(each, abs=0.5 if each > 100 else 0.006) for each in expected]
    gateway = [0.0] * 5 + [3.5, 3.5]  # for a million requests
    assert [float(cost) for _, cost in adds] == [
        pytest.approx(int(units.replace(",", "")) * 0.625e-6 + more, abs=0.006)
        for (units, _), more in zip(adds, gateway, strict=True)
    ]


def test_every_command_of_the_run_book_is_run() -> None:
    """By heading, here and beside here."""
    headings = re.findall(r"^## (.*)", TEXT, re.MULTILINE)
    run = {
        "Kubernetes", "Helm", "ECS", "Terraform", "Roll it", "The table", "Size it", "Remove",
        "Access keys", "From the API Gateway counter", "From SQLite", "Restore and fence", "Rotate",
    }  # fmt: skip
    assert {each for each in headings if blocks(each)} == run
    assert len(blocks("Roll it")) == len(MINE), "one for each"
