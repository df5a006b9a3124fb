"""Every how-to page is followed command by command."""

import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests import engines
from tests.deploy.conftest import skipped_but_not_in_ci

from .pages import ROOT, Block, blocks
from .shell import ENGINE, Shell, why_no_machine

# A group, because each worker that follows a page imports all of `idservice` to fork it.
pytestmark = [pytest.mark.process, pytest.mark.xdist_group("guides")]

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("how-to/*.md"))
TUTORIAL = DOCS / "tutorial.md"
PROGRAMS = {"python", "js", "go", "java", "ini"}
RECIPES = DOCS / "recipes"
TOOLS = ("node", "go", "java", "openssl")  # that a page may want, and not every machine has
# What the recipes need; `make recipes` installs it.
FRAMEWORKS = (
    "celery",
    "django",
    "fastapi",
    "flask",
    "gunicorn",
    "pyuwsgi",
    "sqlalchemy",
    "uvicorn",
)

Follow = Callable[..., str]


def page(name: str) -> list[Block]:
    """Return the blocks of a how-to page that are run."""
    return [each for each in blocks(DOCS / "how-to" / f"{name}.md") if not each.not_run]


@pytest.fixture
def follow(tmp_path: Path, commands: str) -> Follow:
    """Return a function that follows a page and returns what was said."""
    if missing := why_no_machine():
        skipped_but_not_in_ci(missing)
    shell = Shell(tmp_path)
    shell.variables["PATH"] = f"{commands}:{shell.variables['PATH']}".lstrip(":")
    # Java would spend most of its second on what only a long run repays.
    shell.variables["JDK_JAVA_OPTIONS"] = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"

    def followed(name: str, **more: Any) -> str:
        blocks = page(name)
        first = {each.split(maxsplit=1)[0] for block in blocks for each in block.commands}
        if missing := [tool for tool in TOOLS if tool in first and not shutil.which(tool)]:
            skipped_but_not_in_ci(f"missing: {', '.join(missing)}")
        return shell.follow(blocks, **more)

    return followed


@pytest.fixture
def engine() -> str:
    """Return the commands that start a DynamoDB engine on the machine of the page."""
    if missing := engines.why_no_dynoxide():
        skipped_but_not_in_ci(missing)
    return ENGINE


def numbers(said: str) -> list[int]:
    """Return the ids that were printed on lines of their own."""
    return [int(line) for line in said.splitlines() if re.fullmatch(r"[0-9]+", line)]


# The item of an API Gateway counter, and its old endpoint.
OLD = """
python - <<'END'
import boto3
dynamodb = boto3.client("dynamodb", region_name="eu-west-1")
names = ("context", "id")
dynamodb.create_table(
    TableName="donation-data", BillingMode="PAY_PER_REQUEST",
    KeySchema=[dict(AttributeName=n, KeyType=k) for n, k in zip(names, ("HASH", "RANGE"))],
    AttributeDefinitions=[dict(AttributeName=n, AttributeType="S") for n in names],
)
key = {"context": {"S": "atomicCounter"}, "id": {"S": "id"}}
dynamodb.put_item(TableName="donation-data", Item=key | {"counterValue": {"N": "700"}})
END
"""
OLD_ENDPOINT = """
python - <<'END'
import boto3, botocore.exceptions
dynamodb = boto3.client("dynamodb", region_name="eu-west-1")
try:
    dynamodb.update_item(
        TableName="donation-data",
        Key={"context": {"S": "atomicCounter"}, "id": {"S": "id"}},
        UpdateExpression="SET counterValue = counterValue + :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
except botocore.exceptions.ClientError as error:
    print("the old endpoint:", error.response["Error"]["Code"])
END
"""


@pytest.mark.needs_engine
def test_adopt(follow: Follow, engine: str) -> None:
    said = follow("adopt", before=engine + OLD, after=OLD_ENDPOINT)
    assert "the old endpoint: ValidationException" in said
    assert re.search(r"\b700\b", said), "the first id is the value that was there"
    assert re.search(r"\b701\b", said), "no id is lost at the end"


@pytest.mark.needs_engine
def test_dynamodb(follow: Follow, engine: str) -> None:
    said = follow("dynamodb", before=engine)
    assert "counter default" in said


@pytest.mark.needs_engine
def test_scale(follow: Follow, engine: str) -> None:
    stores = f"idservice init\n{engine}\nidservice init --store dynamodb:counters"
    said = follow("scale", before=stores)
    assert "idservice_workers 2.0" in said
    assert re.search(r"shards\W+8\b", said)


def test_change(follow: Follow) -> None:
    said = follow("change")
    given = numbers(said)
    assert given == sorted(set(given))
    assert {1000, 1004, 5000} <= set(given)
    assert re.search(r"state\W+suspended", said)
    assert '"limit":999999' in said


def test_bill(follow: Follow) -> None:
    # What is in memory at midnight in UTC is reserved on both days, and a month may end with it.
    before_midnight = "until [ $(($(date +%s) % 86400)) -lt 86280 ]; do sleep 1; done"
    said = follow("bill", before=before_midnight)
    assert re.search(r"^acme\.orders +not final yet +ids +20 +20$", said, re.MULTILINE)
    assert re.search(r"^beta\.orders +not final yet +ids +1 +", said, re.MULTILINE)
    assert re.search(r"^20\d\d-\d\d-\d\d,acme\.orders,ids,20,20,false$", said, re.MULTILINE)
    assert '"scope":"acme.*"' in said


def test_proxy(follow: Follow) -> None:
    said = follow("proxy")
    assert numbers(said) == [0]
    assert '"runway":60.0' in said


def test_tls(follow: Follow) -> None:
    said = follow("tls")
    assert numbers(said) == [0, 1, 2]
    assert "certificate: serial " in said


def test_share(follow: Follow) -> None:
    said = follow("share")
    assert numbers(said) == [0]
    assert [said.count(f'"code":"{code}"') for code in ("key_not_enough", "key_missing")] == [1, 1]
    assert '"counter":"acme.invoices"' in said
    assert "it within 3 s" in said, "the revocation"


@pytest.mark.needs_engine
def test_move(follow: Follow, engine: str) -> None:
    given = numbers(follow("move", before=engine))
    assert given[:5] == [1000, 1001, 1002, 1003, 1004]
    assert len(given) == 6
    assert given[5] > 1004


def test_monitor(follow: Follow) -> None:
    said = follow("monitor")
    assert "idservice_runway_seconds{" in said
    assert '"gaps"' in said


def test_trace(follow: Follow, tmp_path: Path) -> None:
    collector = """
export OTEL_BSP_SCHEDULE_DELAY=100
mkdir heard
python - <<'END' &
import http.server, pathlib
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with pathlib.Path("heard", self.path.rpartition("/")[2]).open("ab") as file:
            file.write(body)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 4318), Collector).serve_forever()
END
"""
    # Before the stop, which waits 2 s at most for a collector.
    sent = "until grep -saqF /next heard/traces; do sleep 0.1; done\n"
    follow("trace", before=collector, after=sent)
    spans = (tmp_path / "heard" / "traces").read_bytes()
    assert bytes.fromhex("0af7651916cd43dd8448eb211c80319c") in spans


def test_benchmark(follow: Follow) -> None:
    quickly = "export IDSERVICE_DURATION=0.5 IDSERVICE_WARMUP=0.1"
    said = follow("benchmark", before=quickly)
    assert said.count("all distinct") == 2
    assert '"ids_per_s"' in said, "the report as JSON"


def test_python(follow: Follow) -> None:
    said = follow("python")
    assert len(re.findall(r"^[0-9]+ 1000$", said, re.MULTILINE)) == 2
    assert "nothing to wait for: unknown_counter" in said
    assert re.search(
        r"^12\.50 \S+ \S+ True\nonly 12\.50 is there\n12\.50 refused$", said, re.MULTILINE
    )
    orders = re.findall(r'\{"order": ?([0-9]+)\}', said)
    assert len(orders) == 2
    assert len(set(orders)) == 2


# The webhook is called while the service is away, and again when it is back.
AWAY = r"""
pay() {
  curl --silent --data "amount=$2" --write-out ' %{http_code}\n' "127.0.0.1:8081/payments/$1"
}
kill "${listening[127.0.0.1:8080]}"
wait "${listening[127.0.0.1:8080]}" || true
unset 'listening[127.0.0.1:8080]'
pay late 1.00
service 127.0.0.1:8080 "idservice serve --store sqlite:idservice.db"
pay late 1.00
pay late 1.00
pay don-4712 31.00
idservice tally audit donations
"""


def test_collect(follow: Follow) -> None:
    said = follow("collect", after=AWAY)
    assert said.count('"sum":"12.50"') == 2, "the add, and the sum"
    assert said.count('{"collected":"30.00","sum":"42.50"}') == 2
    assert '{"refund":"don-4713","sum":"42.50"}' in said
    runs = said.split("sum 62.51\n")
    assert len(runs) == 3, "the second run adds nothing"
    assert "pay-1 collected\npay-2 collected\npay-3 to be refunded\n" in runs[0]
    assert "collected" not in runs[1]
    assert "JavaScript: 69.81 69.81" in said
    answers = re.findall(r"^(.+)\n ([0-9]{3})$", said.split("JavaScript:")[1], re.MULTILINE)
    assert [status for _, status in answers] == ["503", "200", "200", "422"]
    assert answers[1][0] == answers[2][0] == '{"collected":"1.00","sum":"70.81"}'
    assert "its sum is 70.81" in said


def test_migrate_total(follow: Follow) -> None:
    said = follow("migrate-total")
    assert re.search(r"\b1247\.00\b", said), "the start and one payment"
    assert re.search(r"\b1020\b", said), "a payment that was sent twice counts once"
    assert re.search(r"\b1237\.00\b", said), "the correction"


def test_invoices(follow: Follow, tmp_path: Path) -> None:
    forgets = "rm invoices.db\npython invoices.py\nidservice tally add invoices-2026 1 --key new"
    said = follow("invoices", after=forgets)
    assert said.count("under key draft-8d2f, which made 1 at") == 2
    numbered = "2026-00001 draft-8d2f\n2026-00002 draft-77a0\n2026-00003 draft-c41e\n"
    assert said.count(numbered) == 3, "the same, also for who has forgotten them"
    assert "under key new, which made 4 at" in said


MANY = "printf '\\n'\ncurl --silent --fail -X POST 'http://127.0.0.1:{port}/orders?[1-60]'\n"
# Many ids of the workers of each server, and the method of a client as the default of a field.
AFTER = r"""
for port in 8081 8082 8083; do
  printf '\n'
  curl --silent --fail -X POST "http://127.0.0.1:$port/orders?[1-60]"
done
sed -i 's/default=order_id/default=ids.next_id/; s/import order_id/import ids/' orders/models.py
! django-admin makemigrations orders || exit 1
[ ! -e orders/migrations/0002* ] || exit 1
"""


def test_recipes(follow: Follow, tmp_path: Path) -> None:
    for framework in FRAMEWORKS:
        if find_spec(framework) is None:
            skipped_but_not_in_ci(f"{framework} is not installed: run `make recipes`")
    said = follow("recipes", after=AFTER)
    orders = re.findall(r'\{"order": ?([0-9]+)\}', said)
    assert len(orders) == 3 * 61
    given = [*map(int, orders), *numbers(said)]
    given += [
        int(id) for pair in re.findall(r"^([0-9]+) ([0-9]+)$", said, re.MULTILINE) for id in pair
    ]
    assert len(given) == len(set(given)) == 3 * 61 + 4, "of Django, SQLAlchemy and Celery, too"
    migration = (tmp_path / "orders/migrations/0001_initial.py").read_text()
    assert "default=orders.ids.order_id" in migration
    assert "write default=order_id" in said, "the advice where a method was named"


def test_a_recipe_is_a_file_of_its_own() -> None:
    """The page shows the file; the file is what a reader copies."""
    pages = ("recipes", "other-languages", "collect", "invoices")
    programs = [each for name in pages for each in page(name)]
    shown = {each.file_name: each.text for each in programs if each.file_name}
    files = {
        str(file.relative_to(RECIPES)): file.read_text()
        for file in RECIPES.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert files == shown


def test_other_languages(follow: Follow) -> None:
    said = follow("other-languages")
    assert {int(found) for found in re.findall(r"\b100[0-9]\b", said)} >= set(range(1000, 1007))
    assert '"count":100000' in said
    for language in ("JavaScript", "Go", "Java"):
        assert f"{language}: 250 different ids of 250" in said


def test_the_tallies_of_the_http_api(tmp_path: Path) -> None:
    if missing := why_no_machine():
        skipped_but_not_in_ci(missing)
    read = blocks(DOCS / "reference" / "http-api.md", "Tallies")
    Shell(tmp_path).follow([each for each in read if each.kind in ("sh", "console")])


# --- what is left out ---------------------------------------------------------------------------

LEFT_OUT = {
    ("tutorial.md", "sh"): "needs an image registry",
    ("how-to/monitor.md", "sh"): "needs an image registry",
    ("how-to/python.md", "sh"): "needs a package index",
    ("how-to/trace.md", "sh"): "needs a package index",
}


def test_what_is_not_run_is_listed_with_a_reason() -> None:
    found = [each for path in (TUTORIAL, *PAGES) for each in blocks(path) if each.not_run]
    listed = [(str(each.page.relative_to(DOCS)), each.kind) for each in found]
    assert len(listed) == len(LEFT_OUT)
    assert dict(zip(listed, (each.not_run for each in found), strict=True)) == LEFT_OUT


def test_every_page_is_followed() -> None:
    tests = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    with_commands = {each.stem for each in PAGES if blocks(each)}
    assert with_commands - {"recover"} <= tests, "recover has a test file of its own"


@pytest.mark.parametrize("path", [TUTORIAL, *PAGES], ids=lambda path: path.stem)
def test_every_block_is_of_a_kind_that_is_run(path: Path) -> None:
    fences = re.findall(r"^\s*```", path.read_text(), re.MULTILINE)
    found = blocks(path)
    assert len(fences) == 2 * len(found), "a block that is indented is not read"
    assert {each.kind for each in found} <= {"sh", "console", "text"} | PROGRAMS
    scripts = "".join(each.text for each in found if each.kind == "sh")
    programs = [each for each in found if each.kind in PROGRAMS and not each.not_run]
    unused = [each.place for each in programs if re.split("[./]", each.file_name)[0] not in scripts]
    assert not unused
