"""The commands of access keys: what they print, what they refuse, that a secret is shown once."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from idservice import errors
from idservice.core.access_key import BUCKETS, id_in
from idservice.stores.key_store import KeyBucket
from idservice.stores.sqlite.keys import SQLiteKeys
from tests.cli.test_main import Run, _here, assert_refused, run

__all__ = ["_here", "run"]  # fixtures, used by name
NO_KEY = "idk_use_k7f3q9m2xw_" + "a" * 38  # its checksum is wrong


@pytest.fixture
def store(run: Run) -> Run:
    assert run("init").code == 0
    return run


def made(run: Run, *more: str) -> str:
    said = run("key", "create", "--role", "use", "--scope", "acme.*,beta", *more)
    assert said.code == 0, said.err
    return said.out.removesuffix("\n")


def listed(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run("key", "list", "--json").out.splitlines()]


def test_a_key_is_printed_once_alone_and_is_kept_without_its_secret(store: Run) -> None:
    said = store("key", "create", "--role", "use", "--scope", "acme.*,beta", "--note", "checkout")
    text = said.out.removesuffix("\n")
    id = id_in(text)
    assert id is not None, "one line, the key"
    assert said.err == (
        f"idservice: access key {id}: role use, scopes acme.*, beta. It is shown once; its callers"
        " read it from IDSERVICE_KEY, or from a file. Instances accept it within 3 s.\n"
    )
    shown = store("key", "list")
    assert re.search(rf"^{id}  active  use   acme\.\*,beta  checkout ", shown.out, re.MULTILINE)
    (row,) = listed(store)
    assert list(row) == ["id", "state", "role", "scopes", "note", "by", "created", "expires"]
    secret = text.rpartition("_")[2]
    assert secret not in shown.out + json.dumps(row)
    assert secret.encode() not in Path("idservice.db").read_bytes()


def test_json_has_the_id_and_the_key(store: Run) -> None:
    body = json.loads(made(store, "--json", "--expires", "2099-11-01"))
    assert list(body) == ["id", "key"]
    assert id_in(body["key"]) == body["id"]
    assert listed(store)[0]["expires"] == "2099-11-01T00:00:00.000Z"


def test_scopes_may_be_named_by_several_flags(store: Run) -> None:
    made(store, "--scope", "gamma, delta.*")
    assert listed(store)[0]["scopes"] == ["acme.*", "beta", "gamma", "delta.*"]


def test_a_key_is_revoked_once_and_the_second_time_says_so(store: Run) -> None:
    id = id_in(made(store)) or ""
    first = store("key", "revoke", id, "--reason", "it was in a log")
    said = rf"access key {id}: revoked at [-0-9T:.]+Z; instances refuse it within 3 s; .*--hold.*\n"
    assert re.fullmatch(said, first.out)
    again = store("key", "revoke", id, "--reason", "once more")
    assert re.search(r"was revoked before, at .*Z \(it was in a log\)\n$", again.out)
    assert again.code == 0
    (row,) = listed(store)
    assert (row["state"], row["reason"]) == ("revoked", "it was in a log")
    shown = store("key", "list").out
    assert re.search(rf"{row['revoked']} by {row['revoked_by']}: it was in a log$", shown.strip())


CREATE = ["create", "--role", "use", "--scope"]
REVOKE = ["revoke", "k7f3q9m2xw", "--reason", "x"]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["create", "--role", "owner", "--scope", "a"], 2, ["'owner'", "'admin'"]),
        (["create", "--role", "use"], 2, ["--scope"]),
        ([*CREATE, "acme*"], 2, ["'acme*'", "did you mean `acme.*`?"]),
        ([*CREATE, "*.orders"], 2, ["'*.orders'", "a prefix with `.*`"]),
        ([*CREATE, "a,,b"], 2, ["the scope ''"]),
        ([*CREATE, "a,b,a"], 2, ["named twice"]),
        ([*CREATE, "a", "--expires", "2020-01-01"], 2, ["expired already"]),
        ([*CREATE, "a", "--expires", "2099-02-30"], 2, ["2099-02-30", "such as 2027-11-01"]),
        ([*CREATE, "a", "--expires", "1 year"], 2, ["'1 year'"]),
        ([*CREATE, "a", "--note", "x" * 201], 2, ["at most 200"]),
        ([*CREATE, "a", "--store", "http://h:1"], 1, ["http://h:1 is a service"]),
        (["list", "--store", "http://h:1"], 1, ["http://h:1 is a service"]),
        (["revoke", "k7f3q9m2xw"], 2, ["--reason"]),
        (REVOKE, 1, ["no access key 'k7f3q9m2xw'", "idservice key list"]),
        ([*REVOKE, "--store", "http://h:1"], 1, ["http://h:1 is a service"]),
        (["revoke", "K7F3Q9M2XW", "--reason", "x"], 2, ["ID is not the id of a key"]),
        (["revoke", NO_KEY, "--reason", "x"], 2, ["ID is not the id of a key"]),
        ([*REVOKE[:3], "x\x07"], 2, ["printable"]),
        ([*REVOKE, NO_KEY], 2, ["unrecognized arguments: idk_use_..."]),
        (["list", "--key", NO_KEY], 2, ["--key"]),
        (["rotate", "k7f3q9m2xw"], 2, ["make a second key"]),
        ([], 2, ["COMMAND", "idservice key --help"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_a_refusal_is_one_line_without_a_secret(
    store: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, parts: list[str]
) -> None:
    async def answers(_: object) -> None: ...

    monkeypatch.setattr("idservice.stores.chained.ChainedStore.verify", answers)
    said = store("key", *arguments)
    assert_refused(said, code, *parts)
    assert "a" * 30 not in said.err
    assert listed(store) == []


def test_a_key_in_place_of_its_id_is_not_shown_and_is_named_by_its_id(store: Run) -> None:
    text = made(store)
    said = store("key", "revoke", text, "--reason", "x")
    assert_refused(said, 2, f"`idservice key revoke {id_in(text)} --reason T`")
    assert text.rpartition("_")[2] not in said.err


def unknown() -> errors.OutcomeUnknown:
    return errors.OutcomeUnknown(store="s", action="changing", why="the answer was lost")


def test_a_key_whose_making_is_not_known_is_to_be_looked_for_and_revoked(
    store: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite = SQLiteKeys.rewrite
    read = SQLiteKeys.bucket

    async def lost(self: SQLiteKeys, after: KeyBucket) -> bool:
        await rewrite(self, after)
        monkeypatch.setattr(SQLiteKeys, "bucket", gone)
        raise unknown()

    async def gone(*_: object) -> KeyBucket:
        raise errors.NotApplied(store="s", action="reading", why="it is gone")

    monkeypatch.setattr(SQLiteKeys, "rewrite", lost)
    said = store("key", "create", "--role", "use", "--scope", "a")
    assert_refused(said, 1, "the answer was lost", "idservice key list", "idservice key revoke ID")
    monkeypatch.setattr(SQLiteKeys, "bucket", read)
    (row,) = listed(store)
    assert row["state"] == "active", "it is there, and nobody knows its text"


def test_a_lost_reply_makes_one_key_which_is_printed(
    store: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite, asked = SQLiteKeys.rewrite, []

    async def lost(self: SQLiteKeys, after: KeyBucket) -> bool:
        asked.append(after.rev)
        await rewrite(self, after)
        raise unknown()

    monkeypatch.setattr(SQLiteKeys, "rewrite", lost)
    id = id_in(made(store))
    assert asked == [1], "the next read found it"
    assert [row["id"] for row in listed(store)] == [id]


def test_a_key_that_cannot_be_printed_is_named_by_its_id(
    store: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("idservice.cli.key_commands.print", full, raising=False)
        said = store("key", "create", "--role", "use", "--scope", "a")
    (row,) = listed(store)
    assert_refused(said, 1, f"idservice key revoke {row['id']}", "No space left")


def test_keys_of_every_bucket_are_listed_the_oldest_first(store: Run) -> None:
    ids = [id_in(made(store)) for _ in range(20)]
    rows = listed(store)
    assert {row["id"] for row in rows} == set(ids)
    times = [str(row["created"]) for row in rows]
    assert times == sorted(times)
    assert len(BUCKETS) == 16


def test_fence_all_reminds_of_keys_that_are_those_of_a_copy(store: Run) -> None:
    fence = ("fence", "--all", "--ahead", "10")
    assert "access keys" not in store(*fence).out
    made(store)
    said = store(*fence)
    assert said.code == 0
    assert "of the copy: a key that was revoked later is valid again" in said.out
    assert "access keys" not in store("fence", "default", "--ahead", "10").out
    with closing(sqlite3.connect("idservice.db")) as file, file:
        file.execute("UPDATE key SET keys = '{'")
    assert "access keys are those of the copy" in store(*fence).out


def test_an_older_copy_of_a_file_has_its_keys_as_they_were(store: Run) -> None:
    id = id_in(made(store)) or ""
    copy = Path("idservice.db").read_bytes()
    assert store("key", "revoke", id, "--reason", "stolen").code == 0
    Path("older.db").write_bytes(copy)
    at = ("--store", "sqlite:older.db")
    assert_refused(store("key", "list", *at), 3, "fence --all")
    said = store("fence", "--all", "--ahead", "10", *at)
    assert "`idservice key list --store sqlite:older.db`" in said.out
    (row,) = (json.loads(line) for line in store("key", "list", "--json", *at).out.splitlines())
    assert (row["id"], row["state"]) == (id, "active"), "it is valid again"
