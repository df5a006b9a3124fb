"""The OpenAPI document says what is served: valid, complete, and a fuzzer finds nothing else."""

import asyncio
import base64
import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from idservice.catalogue.changer import EpochChanger
from idservice.catalogue.counters import described, new_counter
from idservice.server.settings import OWN_PATHS
from idservice.stores.records import MOVED, Adopted, Move, Position
from idservice.web import ids
from idservice.web.components import codes, ref
from idservice.web.fast_lane import target
from idservice.web.openapi import document
from idservice.web.request import WebLimits
from idservice.web.schemas import CounterAnswer
from tests.docs import generate
from tests.programs import forked

from .conftest import Serving

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
IN_AIOHTTP = pytest.mark.parametrize("lane", [False], indirect=True)
FUZZING_S = 280  # a bound on a machine under load; it takes about a twentieth


async def fetched(serving: Serving) -> dict[str, Any]:
    answer = await serving.ask("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json
    return body


@pytest.mark.long
async def test_the_document_is_valid_openapi_3_1(serving: Serving) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # loads what no other test needs

    body = await fetched(serving)
    assert body["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(body).validate()


async def test_every_route_is_in_the_document_and_nothing_else(serving: Serving) -> None:
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in serving.app.router.routes()
        if route.resource is not None
    }
    described = {
        (method, path)
        for path, item in (await fetched(serving))["paths"].items()
        for method in item
        if method in METHODS
    }
    assert {each for each in served if each[0] != "head"} == described
    # HEAD goes without saying, wherever no id is used.
    heads = {path for method, path in served if method == "head"}
    assert heads == {path for method, path in served if method == "get" and "next" not in path}


async def test_a_path_of_the_service_itself_is_not_free_for_a_route(serving: Serving) -> None:
    """A new path must be in `OWN_PATHS`, so that no --route hides it."""
    paths = {resource.canonical for resource in serving.app.router.resources()}
    assert {path for path in paths if not OWN_PATHS.fullmatch(path)} == {"/", "/next"}


async def test_every_operation_has_a_name_of_its_own_and_says_its_refusals(
    serving: Serving,
) -> None:
    names = []
    for item in (await fetched(serving))["paths"].values():
        for operation in item.values():
            names.append(operation["operationId"])
            for status, answer in operation["responses"].items():
                if not status.startswith("2"):
                    assert set(answer["content"]) == {"application/problem+json"}
    assert len(names) == len(set(names))


def test_the_document_names_the_bounds_of_this_server() -> None:
    assert document(WebLimits(77, 88)) != document(WebLimits(10, 88))
    assert b"88" in document(WebLimits(77, 88))
    assert b"77" in document(WebLimits(77, 88))


# --- what generators of clients read --------------------------------------------------------------


def schemas_of(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema of the document, and what looks like one."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in ("example", "examples", "default"):
                yield from schemas_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas_of(inner)


def test_every_whole_number_has_64_bits_and_bounds() -> None:
    """A generated client took 32 bits, and could not read the limit of any counter."""
    whole = [each for each in schemas_of(DOCUMENT) if each.get("type") == "integer"]
    assert len(whole) > 30
    assert {each["format"] for each in whole} == {"int64"}
    assert all(0 <= each["minimum"] < each["maximum"] < 2**63 for each in whole)


def test_no_schema_has_a_form_that_generators_refuse() -> None:
    """`"const": false` and unions without a name ended them, or became types without a name."""
    for each in schemas_of(DOCUMENT):
        assert not {"const", "allOf", "not"} & set(each), each
        if "anyOf" in each:
            assert [one["type"] for one in each["anyOf"]] == ["integer", "string"]
            assert each in DOCUMENT["components"]["schemas"].values(), "it has a name"
        assert "default" not in each or "type" in each, each
        for one in each.get("oneOf", ()):
            assert "$ref" in one or set(one) & {"type"}, each


def test_json_is_the_first_media_type_of_every_answer_that_has_it() -> None:
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            for answer in operation["responses"].values():
                kinds = list(answer["content"])
                assert "application/json" not in kinds[1:], operation["operationId"]


def test_every_operation_has_a_tag_that_is_described() -> None:
    tags = [tag["name"] for tag in DOCUMENT["tags"]]
    used = {
        tag for item in DOCUMENT["paths"].values() for one in item.values() for tag in one["tags"]
    }
    assert used == set(tags)
    assert DOCUMENT["servers"][0]["url"] == "/"
    assert DOCUMENT["security"] == [{"bearer": []}, {}], "with a key or without one"


def test_the_codes_are_those_that_the_page_of_errors_lists() -> None:
    listed = re.findall(r"^### `(\w+)`$", generate.page("errors.md"), re.MULTILINE)
    assert codes() == tuple(sorted({*listed} - generate.LOCAL))


def test_every_example_is_valid() -> None:
    seen = 0
    for each in schemas_of(DOCUMENT["paths"]):
        examples = [one["value"] for one in each.get("examples", {}).values()]
        for value in [*examples, *([each["example"]] if "example" in each else [])]:
            judge(each["schema"], value)
            seen += 1
    assert seen > 40


def closed(value: Any) -> Any:
    """Return a schema that permits no field which it does not name."""
    if isinstance(value, list):
        return [closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: closed(one) for name, one in value.items()}
    return {"additionalProperties": False, **made} if "properties" in made else made


DOCUMENT: dict[str, Any] = json.loads(document(WebLimits()))
CLOSED = {"components": closed(DOCUMENT["components"])}
# Paths with an answer in text: all that the lane answers, and all where the Accept header decides.
IN_TEXT = [path for path, item in DOCUMENT["paths"].items() if '"text/' in json.dumps(item)]


def judge(schema: dict[str, Any], value: object) -> None:
    """Fails if a value does not fit a schema whose references are the document's, or has more."""
    jsonschema.Draft202012Validator({**CLOSED, **schema}).validate(value)


async def described_answer(
    serving: Serving,
    path: str,
    method: str = "GET",
    body: bytes = b"",
    *,
    name: str = "",
    key: str = "",
) -> Any:
    """Ask, and judge the answer by its status and kind; return its JSON."""
    target = path.replace("{name}", name).replace("{key}", key)
    headers = {"Content-Type": "application/json", "Idempotency-Key": key} if key else None
    answer = await serving.ask(target, method, headers=headers, body=body)
    operation = DOCUMENT["paths"][path.partition("?")[0]][method.lower()]
    kind = answer.headers["content-type"].partition(";")[0]
    judge(operation["responses"][str(answer.status)]["content"][kind]["schema"], answer.json)
    return answer.json


@IN_AIOHTTP
async def test_real_answers_have_the_fields_of_their_schemas_and_no_others(
    serving: Serving,
) -> None:
    ids, one, all = "/v1/counters/{name}/next", "/v1/counters/{name}", "/v1/counters"
    bodies = {
        "big": b'{"limit":"9007199254740992"}',
        "strict": b'{"strict":true,"start":7}',
        "shards": b'{"shards":3,"runway":5}',
        "few": b'{"limit":1}',
    }
    for name, body in bodies.items():
        await described_answer(serving, one, "PUT", body, name=name)
        for query in ("?format=json", "?format=json&count=2", "?format=ranges&count=2&nonce=n"):
            await described_answer(serving, ids + query, name=name)
            await described_answer(serving, ids + query, "POST", name=name)
        shown = await described_answer(serving, one, name=name)
        assert {"gaps", "ids_in_memory", "next"} <= set(shown)
    await described_answer(serving, one + "/set", "POST", b'{"next":90,"force":true}', name="big")
    await described_answer(serving, one, "PATCH", b'{"state":"suspended"}', name="strict")
    assert (await described_answer(serving, one, name="strict"))["state"] == "suspended"
    for query in ("", "?limit=2", "?limit=2&after=few"):
        await described_answer(serving, all + query)
    await described_answer(serving, "/v1/status")
    for refused in ("?limit=0", "?after=%20"):
        assert (await described_answer(serving, all + refused))["code"] == "bad_page"
    assert (await described_answer(serving, one, name="nobody"))["code"] == "unknown_counter"
    await described_answer(serving, one, "DELETE", b'{"reason":"done"}', name="few")
    assert (await described_answer(serving, "/openapi.json"))["openapi"] == "3.1.0"


@IN_AIOHTTP
async def test_real_answers_of_tallies_have_the_fields_of_their_schemas(serving: Serving) -> None:
    one, add, record = ("/v1/tallies/{name}" + rest for rest in ("", "/add", "/adds/{key}"))
    full = b'{"decimals":2,"floor":"-5","ceiling":99,"start":1,"only":"1.5"}'
    for name, body in (("plain", b"{}"), ("full", full)):
        await described_answer(serving, one, "PUT", body, name=name)
    assert (await described_answer(serving, one, "PUT", b"{}", name="full"))["status"] == 409
    await described_answer(serving, add, "POST", b'{"amount":"1.5"}', name="full", key="a")
    for body, key in ((b'{"amount":"-7"}', "b"), (b'{"amount":"7"}', "c"), (b"{}", "d")):
        await described_answer(serving, add, "POST", body, name="plain", key=key)
    reused = await described_answer(serving, add, "POST", b'{"amount":"8"}', name="plain", key="b")
    assert (reused["code"], reused["amount"]) == ("key_reused", "-7")
    for key in "abcd":
        shown = await described_answer(serving, record, name="plain", key=key)
        assert shown["key"] == key
    assert (await described_answer(serving, one, name="plain"))["sum"] == "0"
    bounds = b'{"floor":"-9","ceiling":"9","reason":"a test"}'
    await described_answer(serving, one, "PATCH", bounds, name="plain")
    beyond = await described_answer(serving, add, "POST", b'{"amount":"10"}', name="plain", key="e")
    assert (beyond["code"], beyond["sum"]) == ("out_of_bounds", "0")
    await described_answer(serving, one + "/set", "POST", b'{"sum":"5"}', name="plain", key="f")
    assert (await described_answer(serving, record, name="plain", key="f"))["kind"] == "set"
    for query in ("", "?limit=1", "?after=full"):
        assert (await described_answer(serving, f"/v1/tallies{query}"))["tallies"]
    await described_answer(serving, one, "PATCH", b'{"state":"suspended"}', name="plain")
    refused = await described_answer(serving, add, "POST", b'{"amount":"1"}', name="plain", key="g")
    assert refused["code"] == "tally_suspended"
    await described_answer(serving, one, "DELETE", name="plain")
    assert (await described_answer(serving, one, name="plain"))["code"] == "unknown_tally"


def test_the_answers_of_an_adopted_and_of_a_moved_counter_fit() -> None:
    item = Adopted("donation-data", (("context", "S", "orders"),), "counterValue", "old")
    there = Move("sqlite:there.db", "a-token", "active", arrived=True)
    for name, more in {
        "adopted": {"adopted": item},
        "home": {"home": item},
        "moved": {"move": there, "state": MOVED},
    }.items():
        made = msgspec.structs.replace(new_counter(name, random.Random(name)), **more)
        body = described(made, 30.0, [Position(5, 5, 0, made.epoch, returned=(range(1, 3),))])
        judge(ref("CounterAnswer"), msgspec.to_builtins(msgspec.convert(body, CounterAnswer)))


@IN_AIOHTTP
async def test_the_page_shows_every_operation_and_every_schema(serving: Serving) -> None:
    answer = await serving.ask("/docs")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path, item in DOCUMENT["paths"].items():
        for method in item:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    for name in DOCUMENT["components"]["schemas"]:
        assert f'<h3 id="{name}">' in answer.text


@IN_AIOHTTP
async def test_the_page_loads_nothing_and_has_no_script(serving: Serving) -> None:
    answer = await serving.ask("/docs")
    policy = answer.headers["content-security-policy"]
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert not re.search(r"<script|\bsrc=|https?://", answer.text)
    assert set(re.findall(r'href="([^"]*)"', answer.text)) <= {
        "/openapi.json",
        *(f"#{name}" for name in re.findall(r' id="(\w+)"', answer.text)),
    }


# --- a fuzzer -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def fuzzer(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Schemathesis."""
    with forked("schemathesis", tmp_path_factory.mktemp("fuzzer")) as program:
        yield program


@pytest.mark.process
@pytest.mark.xdist_group("fuzzer")
@pytest.mark.parametrize(("lane", "accept"), [(True, "*/*"), (False, "application/json")])
async def test_a_fuzzer_that_reads_the_document_finds_no_contradiction(
    serving: Serving,
    lane: bool,
    accept: str,
    fuzzer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each way to answer and each wish once: `fast_lane/test_alike.py` compares the two ways.

    The rest is answered by the same code for the same requests whichever way they come, with any
    wish: it is asked once.
    """

    async def at_once(*_: object) -> None:
        """Else ids go down only after a minute, or two runways."""

    monkeypatch.setattr(EpochChanger, "_outlast_the_stale", at_once)
    asked = [] if lane else [f"--include-path={path}" for path in IN_TEXT]
    code, output = await fuzz(fuzzer, serving, accept, tmp_path, *asked)
    assert code == 0, output
    assert "Stateful (in" in output, "it follows the links"
    assert await serving.one() >= 0, "the service goes on"


@pytest.mark.process
@pytest.mark.xdist_group("fuzzer")
async def test_the_fuzzer_sees_a_wrong_answer(
    serving: Serving, fuzzer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = b'{"counter":"default","id":-1%d}'
    for module in (ids, target):
        monkeypatch.setattr(module, "form", lambda *_: ("application/json", wrong))
    code, output = await fuzz(
        fuzzer, serving, "application/json", tmp_path, "--include-path", "/next"
    )
    assert code == 1
    assert "Response violates schema" in output


async def fuzz(
    fuzzer: Path, serving: Serving, accept: str, folder: Path, *more: str
) -> tuple[int, str]:
    """Schemathesis over every operation, or some; its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        fuzzer,
        "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run",
        f"http://127.0.0.1:{serving.port}/openapi.json",
        "--header", f"Accept: {accept}", "--checks", "all", "--seed", "1", "--workers", "1",
        "--max-examples", "8",
        "--generation-database", "none", "--no-color", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        cwd=folder, env={"PYTHONPATH": str(Path(__file__).parent)},  # read through for each request
    )  # fmt: skip
    try:
        async with asyncio.timeout(FUZZING_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode("utf-8", "replace")
