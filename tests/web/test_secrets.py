"""The secret of a key is in no answer and in no line of the log, wherever a client puts it (K4)."""

import logging
from typing import Any

import pytest

from idservice.allocation.service import Service
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.observability.logs import JsonLines, Lines
from idservice.web.connection import access_log

from .conftest import Serve
from .wire import Answer, connected, request

BODIES = {
    "/v1/keys": b'{"role":"read","scopes":["acme.z"],"note":"%s"}',
    "/v1/counters/{name}": b'{"reason":"%s"}',
    "/v1/tallies/{name}/add": b'{"amount":"%s"}',
}


def requests(routes: Any, key: str) -> list[bytes]:
    """Requests of every route with a key in its place; and then wherever else one may be put."""
    made = []
    right = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for route in routes:
        path = route.resource.canonical
        target = path.replace("{name}", "acme.a").replace("{key}", "k").replace("{id}", "0" * 10)
        body = BODIES.get(path, b'{"nonsense":"%s"}') % key.encode()
        made.append(request(target, route.method, headers={**right, "Idempotency-Key": key}))
        if route.method not in ("GET", "HEAD"):
            made.append(request(target, route.method, headers=right, body=body))
    wrong: list[dict[str, str]] = [
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer  {key} , {key}"},
        {"X-Api-Key": key},
        {"Cookie": f"key={key}"},
        {"Idempotency-Key": f"{key} {key}", "Content-Type": "application/json"},
        {"Accept": key, "Host": key, "Origin": key},
    ]
    for headers in wrong:
        made += [
            request("/next", headers=headers),
            request("/v1/tallies/acme.a/add", "POST", headers=headers, body=b"{}"),
        ]
    targets = (
        f"/next?key={key}", f"/next?count={key}", f"/next?nonce={key}*", f"/{key}",
        f"/next?format=ranges&nonce={key}", f"/v1/status?find={key}", f"/?find={key}",
        f"/v1/counters/{key}/next", f"/v1/counters?after={key}-", f"/v1/status?find={key}*",
        f"/v1/keys/{key}", f"/v1/tallies/{key}", f"/v1/usage?from={key}", f"/v1/usage?scope={key}",
    )  # fmt: skip
    for target in targets:
        made += [request(target, headers=right), request(target), request(target, "DELETE")]
    return made


@pytest.mark.long
@pytest.mark.prints_a_key  # pytest's own copy of the log, not the service's
@pytest.mark.parametrize("asks", [False, True])
async def test_a_secret_is_in_no_answer_and_in_no_line_of_the_log(
    serve: Serve, asks: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(access_log, "level", logging.INFO)
    monkeypatch.setattr("idservice.access.refusal_log._others._next", 0.0)
    serving = await serve(asks=asks)
    await serving.create("acme.a")
    _, good = await serving.make("admin", "*")
    revoked_id, revoked = await serving.make("admin", "acme.*")
    assert serving.keys is not None
    await serving.keys.revoke(revoked_id)
    keys = [one["Authorization"].partition(" ")[2] for one in (good, revoked)]
    made = await serving.ask(
        "/v1/keys", "POST", headers={"Content-Type": "application/json", **good},
        body=b'{"role":"read","scopes":["acme.b"]}',
    )  # fmt: skip
    keys.append(made.json["key"])
    answers: list[Answer] = []

    async def ask_all(sent: list[bytes]) -> None:
        for each in sent:
            async with connected(serving.port) as wire:
                await wire.send(each)
                answers.append(await wire.answer(head_only=each.startswith(b"HEAD")))

    routes = list(serving.app.router.routes())
    routes.sort(key=lambda route: route.method == "GET")  # what was written is shown then
    for key in keys:
        await ask_all(requests(routes, key))

    async def broken(*_: object) -> None:
        raise RuntimeError(f"a bug that names {keys}")

    monkeypatch.setattr(Service, "local_counter", broken)
    crashes = len(answers)
    right = {"Authorization": f"Bearer {keys[0]}"}
    await ask_all([request("/v1/counters/acme.new/next", headers=right)])
    assert answers[crashes].status == 500
    secrets = [key.rpartition("_")[2] for key in keys]
    said = [f"{one.headers} {one.text}" for one in answers]
    lines = [form.format(record) for record in caplog.records for form in (JsonLines(), Lines())]
    assert any("a bug that names" in line for line in lines), "the crash is logged"
    assert len(said) > 100
    found = [text for text in (*said, *lines) for secret in secrets if secret in text]
    assert not found, "\n".join(found[:10])


@pytest.mark.parametrize("lane", [False], indirect=True)  # the lane hands all these over
@pytest.mark.parametrize("form", ["{}", "a.{}", "{}.a"])
async def test_no_name_and_no_key_of_an_add_has_an_access_key_in_it(
    serve: Serve, form: str
) -> None:
    """They are kept, and shown. Each fits the grammar of names."""
    serving = await serve()
    await serving.ask("/v1/tallies/sum", "PUT")
    secret = key_text(Role.USE, range(RANDOM_NUMBERS))
    name = form.format(secret)
    head, amount = {"Content-Type": "application/json"}, b'{"amount":"1"}'
    asked: list[tuple[str, str, bytes, str]] = [
        (f"/v1/{kind}/{name}", method, body, "k")
        for kind in ("counters", "tallies")
        for method, body in (("PUT", b"{}"), ("PATCH", b'{"state":"suspended"}'))
    ]
    asked += [
        (f"/v1/tallies/{name}/add", "POST", amount, "k"),
        ("/v1/tallies/sum/add", "POST", amount, name),
        (f"/v1/counters/{name}/next", "GET", b"", "k"),
    ]
    for path, method, body, key in asked:
        answer = await serving.ask(
            path, method, headers={**head, "Idempotency-Key": key}, body=body
        )
        assert answer.json["code"] in ("bad_name", "bad_key"), (path, answer)
        assert "access key" in answer.json["detail"]
        assert secret not in answer.text
    short = name.replace(secret, secret[:-1])  # with a typo it is none
    assert (await serving.ask(f"/v1/counters/{short}", "PUT")).status == 201
