"""Access keys over HTTP: an admin makes, lists and revokes those of its own scope or below."""

import asyncio
import logging
from typing import Any

import pytest

from .conftest import Serve, Serving
from .test_contract import assert_problem
from .wire import Answer, connected, request

pytestmark = pytest.mark.parametrize("lane", [False], indirect=True)  # the lane hands all over

JSON = {"Content-Type": "application/json"}
NOW = 1_800_000_000.0  # 2027-01-15


async def make(serving: Serving, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return await serving.ask("/v1/keys", "POST", headers={**JSON, **(headers or {})}, body=body)


async def revoke(serving: Serving, id: str, headers: dict[str, str], body: bytes = b"") -> Answer:
    return await serving.ask(f"/v1/keys/{id}", "DELETE", headers=headers, body=body)


def sent(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_key_is_shown_once_and_opens_what_it_says(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serving = await serve(asks=True)
    _, admin = await serving.make("admin", "acme.*")
    body = b'{"role":"use","scopes":["acme.orders"],"note":"checkout","expires":"2099-11-01"}'
    answer = await make(serving, body, admin)
    assert (answer.status, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json
    text = made.pop("key")
    assert text.startswith(f"idk_use_{made['id']}_")
    assert made == {
        "id": made["id"], "role": "use", "scopes": ["acme.orders"], "note": "checkout",
        "expires": "2099-11-01T00:00:00.000Z",
    }  # fmt: skip
    await serving.create("acme.orders")
    taken = await serving.ask("/v1/counters/acme.orders/next", headers=sent(text))
    assert (taken.status, taken.body) == (200, b"0")
    listed = await serving.ask("/v1/keys", headers=admin)
    (shown,) = (one for one in listed.json["keys"] if one["id"] == made["id"])
    assert shown["state"] == "active"
    assert shown["by"].startswith("key:")
    secret = text.rpartition("_")[2]
    assert secret not in listed.text + caplog.text


async def test_no_key_repeats_ids(serve: Serve) -> None:
    """What a stolen key can do is bounded: even that of an admin for all gives no id twice."""
    serving = await serve(asks=True)
    await serving.create("acme.orders")
    _, admin = await serving.make("admin", "*")
    for _ in range(3):
        await serving.ask("/v1/counters/acme.orders/next", headers=admin)
    path, headers = "/v1/counters/acme.orders/set", {**JSON, **admin}
    for body in (b'{"next":0,"allow_lower":true}', b'{"next":9000,"allow_lower":true}'):
        answer = await serving.ask(path, "POST", headers=headers, body=body)
        assert_problem(answer, 403, "write_refused")
    taken = await serving.ask("/v1/counters/acme.orders/next", headers=admin)
    assert (taken.status, taken.body) == (200, b"3")


async def test_an_admin_sees_and_revokes_no_key_beyond_its_scopes(serve: Serve) -> None:
    serving = await serve(asks=True)
    _, acme = await serving.make("admin", "acme.*")
    theirs, their_key = await serving.make("use", "globex.orders")
    all_of_them, _ = await serving.make("admin", "*")
    (await serving.make("use", "acme.orders", "globex.orders"))
    own, own_key = await serving.make("read", "acme.orders")
    listed = (await serving.ask("/v1/keys", headers=acme)).json["keys"]
    # Sorted: two keys of one millisecond are listed by their random ids.
    assert sorted(one["scopes"] for one in listed) == [["acme.*"], ["acme.orders"]]
    missing = await revoke(serving, "0000000000", acme)
    for id in (theirs, all_of_them):
        refused = await revoke(serving, id, acme)
        assert_problem(refused, 404, "unknown_access_key")
        assert refused.text.replace(id, "0000000000") == missing.text
    assert (await serving.ask("/v1/tallies/globex.orders", headers=their_key)).status == 404
    for _ in range(2):  # repeating it is fine
        answer = await revoke(serving, own, acme, b'{"reason":"replaced"}')
        assert (answer.status, answer.json["state"]) == (200, "revoked")
        assert answer.json["reason"] == "replaced"
    assert_problem(
        await serving.ask("/v1/counters/acme.orders/next", headers=own_key), 401, "key_unknown"
    )


async def test_a_key_revoked_while_a_body_comes_changes_nothing(serve: Serve) -> None:
    serving = await serve(asks=True)
    assert serving.keys is not None
    assert serving.asking is not None
    kept = serving.asking._keys
    assert kept is not None
    for path, method in (
        ("/v1/keys", "POST"),
        ("/v1/counters/acme.new", "PUT"),
        ("/v1/tallies/acme.new", "PUT"),
        ("/v1/tallies/acme.new/add", "POST"),
        ("/v1/tallies/acme.new/set", "POST"),
    ):
        id, admin = await serving.make("admin", "acme.*")
        more = {**JSON, **admin, "Idempotency-Key": "a", "Content-Length": "36"}
        head = request(path, method, headers=more)
        async with connected(serving.port) as wire:
            await wire.send(head + b'{"role":"admin",')
            while id not in kept._passes:  # then its handler waits for the rest
                await asyncio.sleep(0)
            await serving.keys.revoke(id)
            await wire.send(b'"scopes":["acme.*"]}')
            # The same add may have been counted while the key was valid (T3).
            outcome = "unknown" if path.endswith(("/add", "/set")) else "not_applied"
            assert_problem(await wire.answer(), 401, "key_unknown", outcome)
    made = [key for key in await serving.keys.list() if key.by]
    assert not made, "a revoked key made another"


@pytest.mark.parametrize(
    ("outer", "scopes", "status"),
    [
        ("acme.*", '["acme.orders"]', 201),
        ("acme.*", '["acme.*"]', 201),
        ("acme.*", '["acme.eu.*"]', 201),
        ("acme.*", '["acme2.orders"]', 403),
        ("acme.*", '["acme"]', 403),
        ("acme.*", '["acme.orders","globex.*"]', 403),
        ("acme.*", '["*"]', 403),
        ("acme.orders", '["acme.*"]', 403),
        ("*", '["*"]', 201),
        ("*", '["acme.*"]', 201),
    ],
)
async def test_an_admin_makes_keys_of_its_own_scope_or_below(
    serve: Serve, outer: str, scopes: str, status: int
) -> None:
    serving = await serve(asks=True)
    _, admin = await serving.make("admin", outer)
    answer = await make(serving, b'{"role":"admin","scopes":%s}' % scopes.encode(), admin)
    assert answer.status == status, answer
    if status == 403:
        assert_problem(answer, 403, "key_not_enough")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "role"),
        (b'{"role":"owner","scopes":["a"]}', "owner"),
        (b'{"role":"use","scopes":[]}', "0 scopes"),
        (b'{"role":"use","scopes":["acme*"]}', "acme*"),
        (b'{"role":"use","scopes":["acme.a","acme.a"]}', "twice"),
        (b'{"role":"use","scopes":["acme.a"],"scopes":["acme.b"]}', "twice"),
        (b'{"role":"use","scopes":["acme.a"],"expire":"2099-01-01"}', "expire"),
        (b'{"role":"use","scopes":["acme.a"],"note":"a\\nb"}', "note"),
        (b'{"role":"use","scopes":["acme.a"],"expires":"2026-11-01"}', "expired already"),
        (b'{"role":"use","scopes":["acme.a"],"expires":"2027-01-15T07:59:59Z"}', "expired"),
        (b'{"role":"use","scopes":["acme.a"],"expires":"1.11.2099"}', "such as 2027-11-01"),
        (b'{"role":"use","scopes":["acme.a"],"expires":"2099-02-30"}', "such as 2027-11-01"),
        (
            b'{"role":"use","scopes":["acme.a"],"expires":"9999-12-31T23:59:00-12:00"}',
            "such as 2027-11-01",
        ),
        (
            b'{"role":"use","scopes":["acme.a"],"expires":"2099-01-01T00:00:00"}',
            "such as 2027-11-01",
        ),
        (b"[]", "object"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused(serve: Serve, body: bytes, why: str) -> None:
    serving = await serve(asks=True, clock=lambda: NOW)
    _, admin = await serving.make("admin", "acme.*")
    answer = await make(serving, body, admin)
    assert_problem(answer, 400, "bad_access_key")
    assert why in answer.json["detail"]


@pytest.mark.parametrize(
    ("expires", "at"),
    [
        ("2027-11-01", "2027-11-01T00:00:00.000Z"),
        ("2027-11-01T10:00:00+02:00", "2027-11-01T08:00:00.000Z"),
        ("2027-01-15t08:00:01.5z", "2027-01-15T08:00:01.500Z"),
    ],
)
async def test_a_key_expires_at_the_begin_of_a_day_or_at_an_instant(
    serve: Serve, expires: str, at: str
) -> None:
    serving = await serve(asks=True, clock=lambda: NOW)
    _, admin = await serving.make("admin", "acme.*")
    wish = b'{"role":"use","scopes":["acme.a"],"expires":"%s"}' % expires.encode()
    assert (await make(serving, wish, admin)).json["expires"] == at


async def test_without_a_key_the_rule_of_changes_holds(serve: Serve) -> None:
    wish = b'{"role":"admin","scopes":["acme.*"]}'
    closed = await serve(writable=False)
    answer = await make(closed, wish)
    assert_problem(answer, 403, "write_refused")
    assert "idservice key create" in answer.json["detail"]
    assert (await closed.ask("/v1/keys")).json == {"keys": []}
    id, _ = await closed.make("use", "acme.a")
    refused = await revoke(closed, id, {})
    assert_problem(refused, 403, "write_refused")
    assert "idservice key revoke ID" in refused.json["detail"]


async def test_without_a_key_none_is_made_that_opens_everything(serve: Serve) -> None:
    serving = await serve()
    made = await make(serving, b'{"role":"admin","scopes":["acme.*"]}')
    assert made.status == 201
    refused = await make(serving, b'{"role":"use","scopes":["*"]}')
    assert_problem(refused, 403, "write_refused")
    assert "idservice key create --role R --scope '*'" in refused.json["detail"]
    assert (await revoke(serving, made.json["id"], {})).json["state"] == "revoked"


async def test_an_admin_changes_from_anywhere_and_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serving = await serve(writable=False)
    id, admin = await serving.make("admin", "acme.*")
    admin["Host"] = "ids.example.com"
    put: dict[str, Any] = {"method": "PUT", "headers": admin}
    assert (await serving.ask("/v1/counters/acme.a", **put)).status == 201
    assert (await serving.ask("/v1/tallies/acme.t", **put)).status == 201
    patch: dict[str, Any] = {
        "method": "PATCH", "headers": admin, "body": b'{"state":"suspended","reason":"why"}'
    }  # fmt: skip
    shown = (await serving.ask("/v1/counters/acme.a", **patch)).json
    assert shown["last_change"]["by"] == f"key:{id}"
    shown = (await serving.ask("/v1/tallies/acme.t", **patch)).json
    assert shown["last_change"]["by"] == f"key:{id}"
    assert f"key:{id}" in caplog.text


async def test_other_methods_and_paths_are_refused_as_elsewhere(serving: Serving) -> None:
    assert_problem(await serving.ask("/v1/keys", "PUT"), 405, "method_not_allowed")
    assert_problem(await serving.ask("/v1/keys/x", "GET"), 405, "method_not_allowed")
    assert_problem(await serving.ask("/v1/keys/x/y"), 404, "unknown_path")
    assert_problem(await revoke(serving, "x" * 90, {}), 404, "unknown_access_key")
    assert (await serving.ask("/v1/keys", "HEAD")).status == 200


async def test_the_admins_of_a_tenant_leave_room_for_the_keys_of_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idservice.access.changes.TENANT_MAX", 4)
    serving = await serve(asks=True)
    (_, root), (_, acme), (_, globex) = [
        await serving.make("admin", scope) for scope in ("*", "acme.*", "globex.*")
    ]

    async def status(admin: dict[str, str], scope: str) -> int:
        return (
            await make(serving, b'{"role":"admin","scopes":["%s"]}' % scope.encode(), admin)
        ).status

    below = (await make(serving, b'{"role":"admin","scopes":["acme.a.*"]}', acme)).json
    assert [await status(sent(below["key"]), "acme.a.x") for _ in range(3)] == [201, 201, 400]
    refused = await make(serving, b'{"role":"use","scopes":["acme.b"]}', acme)
    assert_problem(refused, 400, "bad_access_key")
    assert "'acme' has 4 valid keys" in refused.json["detail"]
    assert await status(globex, "globex.x") == 201
    assert await status(root, "acme.b") == 201
    assert (
        await serving.ask(f"/v1/keys/{below['id']}", "DELETE", headers={**JSON, **root})
    ).status == 200
    assert await status(acme, "acme.c") == 400
    for one in (await serving.ask("/v1/keys", headers=acme)).json["keys"]:
        if one["scopes"] == ["acme.a.x"]:
            await revoke(serving, one["id"], {**JSON, **root})
    assert await status(acme, "acme.c") == 201
