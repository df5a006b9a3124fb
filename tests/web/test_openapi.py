"""The OpenAPI document says what is served: valid, complete, and a fuzzer finds nothing else."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from idservice.catalogue.changer import EpochChanger
from idservice.server.settings import OWN_PATHS
from idservice.web import ids
from idservice.web.openapi import document
from idservice.web.request import WebLimits
from tests.programs import forked

from .conftest import Serving

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
FUZZING_S = 120  # a bound on a machine under load; it takes about a tenth


async def fetched(serving: Serving) -> dict[str, Any]:
    answer = await serving.ask("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body: dict[str, Any] = answer.json
    return body


async def test_the_document_is_valid_openapi_3_1(serving: Serving) -> None:
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
    assert served == described


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


@pytest.fixture(scope="session")
def fuzzer(_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Schemathesis."""
    with forked("schemathesis", tmp_path_factory.mktemp("fuzzer")) as program:
        yield program


@pytest.mark.process
@pytest.mark.xdist_group("fuzzer")
@pytest.mark.parametrize("accept", ["*/*", "application/json"])
async def test_a_fuzzer_that_reads_the_document_finds_no_contradiction(
    serving: Serving,
    accept: str,
    fuzzer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(*_: object) -> None:
        """Else ids go down only after a minute, or two runways."""

    monkeypatch.setattr(EpochChanger, "_outlast_the_stale", at_once)
    code, output = await fuzz(fuzzer, serving, accept, tmp_path)
    assert code == 0, output
    assert "Stateful (in" in output, "it follows the links"
    assert await serving.one() >= 0, "the service goes on"


@pytest.mark.process
@pytest.mark.xdist_group("fuzzer")
async def test_the_fuzzer_sees_a_wrong_answer(
    serving: Serving, fuzzer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = b'{"counter":"default","id":-1}'
    monkeypatch.setattr(ids, "one", lambda *_: ("application/json", wrong))
    code, output = await fuzz(fuzzer, serving, "*/*", tmp_path, "--include-path", "/next")
    assert code == 1
    assert "Response violates schema" in output


async def fuzz(
    fuzzer: Path, serving: Serving, accept: str, folder: Path, *more: str
) -> tuple[int, str]:
    """Schemathesis over every operation; its exit code and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        fuzzer,
        "--config-file", str(Path(__file__).with_name("schemathesis.toml")), "run",
        f"http://127.0.0.1:{serving.port}/openapi.json",
        "--header", f"Accept: {accept}", "--checks", "all", "--seed", "1", "--workers", "1",
        "--max-examples", "12",
        "--generation-database", "none", "--no-color", *more,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        cwd=folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
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
