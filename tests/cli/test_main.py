"""The command line: what it prints, and the exit code of each way it can end."""

import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from idservice.cli import main
from idservice.core.access_key import RANDOM_NUMBERS, Role, key_text
from idservice.observability import logs
from idservice.server import settings
from idservice.server.sockets import Sockets
from tests import leaks
from tests.processes import Serving, command, environment


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logs, "set_up", lambda *_, **__: None)
    monkeypatch.setattr(Sockets, "log_addresses", serves)


def serves(*_: object) -> None:
    """Instead of serving for ever what should have been refused."""
    raise AssertionError("it serves")


class Said:
    """How a command in this process ended, and what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code = main.main(list(arguments))
        self.out, self.err = capsys.readouterr()
        if arguments[:2] != ("key", "create"):
            leaks.look(self.out, "standard output")
        leaks.look(self.err, "standard error")


class Run:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        return Said(self._capsys, *arguments)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def assert_refused(said: Said, code: int, *parts: str) -> None:
    assert said.code == code, said.err
    assert said.out == ""
    assert said.err.startswith("idservice: ")
    assert said.err.count("\n") == 1, "one line"
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err


# --- usage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--lisen", "x"], ["--lisen", "did you mean --listen?"]),
        (["serve", "--stoer=x"], ["--stoer", "did you mean --store?"]),
        (["init", "--listen=x"], ["--listen=x; this command does not take --listen,"]),
        (["--store=x", "counters"], ["--store=x", "or not before its name"]),
        (["serve", "--sto", "x"], ["--sto"]),  # no abbreviations: a later flag may share them
        (["serve", "--xyzzy"], ["--xyzzy", "--help"]),
        (["serve", "extra"], ["extra"]),
        (["serve", "--runway"], ["--runway"]),
        (["serve", "--init=1"], ["--init"]),
        (["nope"], ["nope", "serve"]),
        (["serve", "--port", "9000"], ["--port 9000; it is called --listen here"]),
        (["serve", "--db=x"], ["it is called --store here"]),
        (["help", "nope"], ["nope", "serve"]),
        (["create"], ["NAME"]),
        (["show"], ["NAME"]),
        (["create", "a", "--adopt-returns", "both"], ["both", "old"]),
        (["create", "a b"], ["a b"]),
        (["create", "a", "--start", "-1"], ["--start", "-1"]),
        (["create", "a", "--start", "1_0"], ["--start", "1_0"]),
        (["create", "a", "--limit", "9223372036854775807"], ["--limit"]),
        (["create", "a", "--shards", "x"], ["--shards", "x"]),
        (["create", "a", "--shards", "65"], ["--shards is '65'", "from 1 to 64"]),
        (["reshard", "a", "--shards", "0"], ["--shards is '0'", "from 1 to 64"]),
        (["serve", "--runway", "1e9"], ["--runway is '1e9'", "from 1 to 86400 seconds"]),
        (["show", "a/b"], ["a/b"]),
        (["next", "a/b"], ["a/b"]),
        (["next", "--count", "0"], ["count", "'0'"]),
        (["next", "--count", "1_0"], ["count", "1_0"]),
        (["next", "--count", "1000000001"], ["count", "1000000000"]),
        (["next", "--url", "http://127.0.0.1:1", "--store", "sqlite:x"], ["--url", "--store"]),
        (["health", "--url", "ftp://x"], ["ftp://x", "http://HOST:PORT"]),
        (["health", "--url", "127.0.0.1:8080"], ["127.0.0.1:8080", "http://HOST:PORT"]),
        (["health", "--store", "sqlite:x"], ["--store"]),
        (["counters", "--store", "bogus:x"], ["bogus:x", "sqlite:PATH"]),
        (["counters", "--store", "sqlite:"], ["sqlite:", "sqlite:PATH"]),
        (["serve", "--listen", "nonsense"], ["nonsense", "HOST:PORT"]),
        (["serve", "--listen", "127.0.0.1:65536"], ["65536"]),
        (["serve", "--listen", "127.0.0.1:0", "--admin-listen", ":1"], [":1"]),
        (["serve", "--listen", "127.0.0.1:0", "--store", "bogus:x"], ["bogus:x"]),
        (["serve", "--listen", "127.0.0.1:0", "--default-counter", "a b"], ["a b"]),
        (["serve", "--listen", "127.0.0.1:0", "--route", "/a=b c"], ["b c"]),
        (
            ["serve", "--listen", "127.0.0.1:0", "--route", "/a=b", "--route", "/a=c"],
            ["/a", "b", "c"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_is_one_line_and_exit_2(run: Run, arguments: list[str], parts: list[str]) -> None:
    if arguments[:1] == ["serve"] and "--store" not in arguments and "--init=1" not in arguments:
        arguments = ["serve", "--store", "sqlite:gone.db", *arguments[1:]]  # at worst exit 3
    assert_refused(run(*arguments), 2, *parts)
    assert not list(Path().iterdir()), "nothing was created"


URLS = ["http://me:hush@h:1", "http://me:hu:sh hush@h:1/", "http://h:1/?token=hush", "me:hush@h:1"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("words", [
    ["serve", "--store"], ["serve", "--listen"], ["serve", "--admin-listen"], ["serve", "--route"],
    ["serve", "--stor"], ["counters", "--store"], ["doctor", "--store"], ["health", "--url"],
    ["next", "--url"], ["top", "--url"], ["bench"], ["move", "a", "--store", "sqlite:x", "--to"],
    [], ["init"], ["init", "--store", "dynamodb:x?a=b&endpoint"],
], ids=" ".join)  # fmt: skip
def test_a_refused_value_is_shown_without_its_password(
    run: Run, words: list[str], url: str
) -> None:
    joined = [*words[:-1], f"{words[-1]}={url}"] if words[-1:] and "-" in words[-1] else []
    for arguments in [[*words, url], joined] if joined else [[*words, url]]:
        said = run(*arguments)
        assert said.code == 2
        assert "hush" not in said.err + said.out, said.err


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("variable", ["STORE", "LISTEN", "ADMIN_LISTEN", "ROUTE", "WORKERS", "URL"])
def test_a_refused_variable_is_shown_without_its_password(
    run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(f"IDSERVICE_{variable}", url)
    said = run("health" if variable == "URL" else "serve")
    assert said.code == 2
    assert "hush" not in said.err + said.out, said.err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["next", "--json"], "--store"),
        (["init", "--port", "1"], "--listen"),
        (["serve", "--rats"], "--rate"),
    ],
)
def test_no_flag_is_proposed_that_the_command_does_not_take(
    run: Run, arguments: list[str], meant: str
) -> None:
    assert meant not in run(*arguments).err.partition("; see ")[0].partition(arguments[1])[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["help"], "COMMAND"),
        (["help", "serve"], "--listen"),
        (["-V"], "idservice "),
    ],
)
def test_help_is_given_where_it_is_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    assert ended.value.code == 0
    assert said in capsys.readouterr().out


def test_an_unknown_variable_is_one_line_and_exit_2(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDSERVICE_STOER", "x")
    for name in ("serve", "init", "health"):
        assert_refused(run(name), 2, "IDSERVICE_STOER", "did you mean IDSERVICE_STORE?")


def test_a_variable_of_kubernetes_is_ignored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDSERVICE_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("IDSERVICE_PORT_8080_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("IDSERVICE_PORT", "tcp://10.0.0.1:8080")
    assert run("init").code == 0


def test_the_help_of_serve_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["serve", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    words = set(text.replace("[", " ").replace("]", " ").split())
    for setting in settings.SERVE:
        assert setting.flag in words
        assert setting.variable in words


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("serve", "init", "create", "counters", "show", "next", "health", "wait", "bench")
    for arguments in (["--help"], *([name, "--help"] for name in names)):
        with pytest.raises(SystemExit) as ended:
            main.main(arguments)
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert arguments != ["--help"] or all(name in text for name in names)


def test_the_version_names_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["--version"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("idservice 0.")
    assert "Python 3." in text
    assert "aiohttp 3." in text
    assert text.count("\n") == 1


# --- the store ------------------------------------------------------------------------------------


def test_init_twice_changes_nothing(run: Run) -> None:
    first = run("init", "--store", "sqlite:a.db")
    assert (first.code, first.err) == (0, "")
    assert "starts from 0" in first.out
    assert run("next", "--store", "sqlite:a.db").out == "0\n"
    again = run("init", "--store", "sqlite:a.db")
    assert again.code == 0
    assert "initialised before" in again.out
    assert run("next", "--store", "sqlite:a.db").out == "1\n"


def test_init_without_a_store_named_creates_the_default_file(run: Run) -> None:
    assert run("init").code == 0
    assert Path("idservice.db").exists()


def test_init_makes_a_store_of_an_empty_file_but_not_of_another_file(run: Run) -> None:
    Path("empty.db").touch()
    assert run("init", "--store", "sqlite:empty.db").code == 0
    Path("other.db").write_text("what is this" * 1000)
    assert_refused(run("init", "--store", "sqlite:other.db"), 3, "other.db")
    assert Path("other.db").read_text() == "what is this" * 1000


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--listen", "127.0.0.1:0"], ["next"], ["counters"], ["show", "default"],
     ["create", "a"]],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_a_named_store_that_is_missing_or_empty_is_exit_3(run: Run, arguments: list[str]) -> None:
    said = run(*arguments, "--store", "sqlite:gone.db")
    assert_refused(said, 3, "sqlite:gone.db", "idservice init --store sqlite:gone.db")
    assert not Path("gone.db").exists()
    Path("empty.db").touch()
    said = run(*arguments, "--store", "sqlite:empty.db")
    assert_refused(said, 3, "sqlite:empty.db", "missing or empty")
    assert Path("empty.db").stat().st_size == 0


def test_a_store_in_a_folder_that_is_not_there_is_exit_3(run: Run) -> None:
    assert_refused(run("init", "--store", "sqlite:no/such/a.db"), 3, "no/such/a.db")
    assert_refused(run("next", "--store", "sqlite:no/such/a.db"), 3, "no/such/a.db")


def test_a_path_that_cannot_be_a_store_is_told_with_a_way_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are found: `init`, `next` and `doctor` said the words of a library."""
    for name in ("init", "next"):
        assert_refused(run(name, "--store", "sqlite:."), 3, ". is a folder", "name a file in it")
    assert "file: . is a folder" in run("doctor", "--store", "sqlite:.").out
    assert_refused(run("init", "--store", "sqlite:no/such/a.db"), 3, "no folder", "mkdir -p")

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    at = f"user {os.geteuid()} is not allowed to use idservice.db"
    assert_refused(run("serve", "--listen", "127.0.0.1:0"), 3, at, f"`ls -ld {Path.cwd()}`")
    assert at in run("doctor").out
    monkeypatch.undo()


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_without_room_tells_what_failed_and_what_became_of_the_ids(run: Run) -> None:
    run("init")
    command = [sys.executable, "-m", "idservice", "next"]
    with Path("/dev/full").open("w") as full:
        said = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert said.returncode == 1
    assert "The output cannot be written: No space left on device. Send it to" in said.stderr
    assert "not printed are used up" in said.stderr


def test_a_locked_store_is_not_reported_as_a_lack_of_permissions(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    monkeypatch.setattr("idservice.stores.sqlite.connection.BUSY_TIMEOUT_S", 0.01)
    with closing(sqlite3.connect("idservice.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = run("next")
    assert_refused(said, 3, "database is locked", "another process", "fuser idservice.db")
    assert "permissions" not in said.err


def test_an_empty_default_file_is_no_newcomer(run: Run) -> None:
    Path("idservice.db").touch()
    assert_refused(run("serve", "--listen", "127.0.0.1:0"), 3, "missing or empty")


# --- counters -------------------------------------------------------------------------------------


def test_create_again_is_the_same_and_otherwise_is_refused(run: Run) -> None:
    run("init")
    first = run("create", "orders", "--start", "1000")
    assert (first.code, first.out) == (0, "counter orders: created, ids from 1000\n")
    again = run("create", "orders", "--start", "1000")
    assert (again.code, "already there" in again.out) == (0, True)
    assert_refused(run("create", "orders", "--start", "1001"), 1, "1000", "1001")
    assert run("next", "orders").out == "1000\n"


def test_create_takes_every_option(run: Run) -> None:
    run("init")
    said = run(
        "create", "s", "--start", "5", "--limit", "9007199254740992", "--strict", "--runway", "12.5"
    )
    assert said.code == 0
    shown = json.loads(run("show", "s", "--json").out)
    assert shown == {
        "counter": "s", "state": "active", "epoch": 1, "start": "5", "limit": "9007199254740992",
        "strict": True, "shards": 1, "runway": 12.5, "next": shown["next"],
        "last_change": shown["last_change"],
    }  # fmt: skip
    assert str(shown["next"]) == "5"


def test_a_counter_with_shards_is_created_shown_and_asked(run: Run) -> None:
    run("init")
    assert run("create", "s", "--shards", "3", "--start", "100", "--limit", "110").code == 0
    assert "already there" in run("create", "s", "--shards", "3", "--start", "100",
                                  "--limit", "110").out  # fmt: skip
    assert_refused(run("create", "s", "--start", "100", "--limit", "110"), 1, "shards is 3, not 1")
    shown = json.loads(run("show", "s", "--json").out)
    assert (shown["shards"], shown["next"], shown["next_by_shard"]) == (3, 100, [100, 101, 102])
    taken = [int(run("next", "s").out) for _ in range(2)]
    shown = json.loads(run("show", "s", "--json").out)
    assert sum(shown["next_by_shard"]) == 303 + 2 * 3
    assert shown["next"] == min(shown["next_by_shard"])
    # The rest, though no shard alone has so many left.
    taken += [int(line) for line in run("next", "s", "--count", "9").out.split()]
    assert sorted(taken) == list(range(100, 111))
    assert_refused(run("next", "s"), 1, "limit 110")


def test_a_counter_in_use_is_given_another_number_of_shards(run: Run) -> None:
    run("init")
    assert run("next", "--count", "5").out == "0\n1\n2\n3\n4\n"
    assert run("reshard", "default", "--shards", "8", "--reason", "hot").out == (
        "counter default: active, epoch 2, 8 shards, ids from 5\n"
    )
    assert "already active, 8 shards" in run("reshard", "default", "--shards", "8").out
    shown = json.loads(run("show", "default", "--json").out)
    assert (shown["epoch"], shown["next_by_shard"]) == (2, list(range(5, 13)))
    assert int(run("next").out) in range(5, 13)
    assert run("reshard", "default", "--shards", "1").out.startswith(
        "counter default: active, epoch 3, ids from "
    )
    assert "next_by_shard" not in json.loads(run("show", "default", "--json").out)
    assert_refused(run("reshard", "default", "--shards", "65"), 2, "1 to 64")
    assert_refused(run("reshard", "default"), 2, "--shards")
    run("create", "s", "--strict")
    assert_refused(run("reshard", "s", "--shards", "2"), 1, "strict")


def test_a_counter_cannot_be_what_it_cannot_be(run: Run) -> None:
    run("init")
    assert_refused(run("create", "a", "--start", "5", "--limit", "4"), 2, "5", "4")
    assert_refused(run("create", "a", "--shards", "0"), 2, "shards", "1 to 64")
    assert_refused(run("create", "a", "--shards", "65"), 2, "shards", "1 to 64")
    assert_refused(run("create", "a", "--shards", "2", "--strict"), 2, "strict", "one shard")
    assert_refused(run("create", "a", "--runway", "0"), 2, "--runway")
    assert_refused(run("create", "a", "--adopt-table", "t"), 2, "--adopt-key")
    everything = "--adopt-table t --adopt-key a=b --adopt-attribute v --adopt-returns old"
    assert_refused(run("create", "a", *everything.split()), 2, "dynamodb:TABLE")
    assert len(run("counters", "--json").out.splitlines()) == 1


def test_a_terminal_gets_tables_with_the_same_facts(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    run("create", "orders", "--shards", "2", "--limit", "1000")
    for name in ("counters", "doctor"):
        plain = run(name)
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", "400")
            patch.setenv("NO_COLOR", "1")
            patch.setattr(sys.stdout, "isatty", lambda: True)
            drawn = run(name)
        assert drawn.code == plain.code
        assert "\x1b[3" not in drawn.out, "NO_COLOR is kept"
        words = re.sub(r"\x1b\[[0-9;]*m", "", drawn.out).split()
        facts = plain.out.split()
        if name == "doctor":  # one number is the free space of the disk, which changes meanwhile
            facts = [word for word in facts if not word.isdigit()]
        assert [word for word in facts if word not in words] == []
        assert name == "doctor" or {"NAME", "2", "orders", "active"} <= set(words)


def test_counters_are_listed_and_shown(run: Run) -> None:
    run("init")
    run("create", "b")
    run("create", "a")
    run("next", "a", "--count", "3")
    run("create", "b10", "--limit", "1")
    run("create", "b9", "--shards", "2", "--runway", "2.5")
    run("next", "b10", "--count", "2")
    run("suspend", "b")
    assert run("counters").out.splitlines() == [
        "NAME     STATE      NEXT  LIMIT USED  SHARDS  RUNWAY  MOVED TO",
        "a        active     3     0%          1       30 s    –",
        "b        suspended  0     0%          1       30 s    –",
        "b9       active     0     0%          2       2.5 s   –",
        "b10      exhausted  2     100%        1       30 s    –",
        "default  active     0     0%          1       30 s    –",
    ]
    rows = [json.loads(line) for line in run("counters", "--json").out.splitlines()]
    assert [row["counter"] for row in rows] == ["a", "b", "b9", "b10", "default"]
    assert [row["next"] for row in rows] == [3, 0, 0, 2, 0]
    with closing(sqlite3.connect("idservice.db")) as database, database:
        database.execute("DELETE FROM position WHERE counter = 'b'")
    assert "\nb        suspect    –" in run("counters").out, (
        "a lost position hides no other counter"
    )
    shown = run("show", "a").out
    assert "counter:     a\n" in shown
    assert "next:        3\n" in shown
    assert "strict:      no\n" in shown
    assert "runway:      30 s\n" in shown
    assert "state:       exhausted\n" in run("show", "b10").out
    assert_refused(run("show", "ghost"), 1, "ghost")


def test_next_takes_ids_from_the_store(run: Run) -> None:
    run("init")
    assert run("next").out == "0\n"
    assert run("next", "--count", "3").out == "1\n2\n3\n"
    run("create", "few", "--limit", "2")
    assert run("next", "few", "--count", "2").out == "0\n1\n"
    assert_refused(run("next", "few", "--count", "2"), 1, "few", "2")
    assert_refused(run("next", "few", "--count", "5"), 1, "few")
    assert run("next", "few").out == "2\n"
    assert_refused(run("next", "few"), 1, "few")
    assert_refused(run("next", "ghost"), 1, "ghost", "idservice create ghost")
    assert "ghost" not in run("counters").out, "asking creates nothing"


# --- asking a service -----------------------------------------------------------------------------


@pytest.mark.process
def test_next_show_health_and_wait_ask_a_running_service(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = ("127.0.0.1:0", "unix:front")
    with Serving(tmp_path, listen=listen) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        created = serving.await_log("store_created")
        assert "idservice.db" in created["message"]
        assert "ids start from 0" in created["message"]
        for where in (url, url + "/", "unix:front"):
            assert run("health", "--url", where).code == 0
            assert run("health", "--ready", "--url", where).code == 0
            assert run("wait", "--url", where, "--timeout", "5").code == 0
        assert run("next", "--url", url).out == "0\n"
        assert run("next", "--url", "unix:front", "--count", "2").out == "1\n2\n"
        assert run("next", "default", "--url", url).out == "3\n"
        assert_refused(run("next", "ghost", "--url", url), 1, "404", "ghost")
        shown = run("show", "default", "--url", url).out
        assert re.search(r"^ids_in_memory:  \d+$", shown, re.MULTILINE)
        assert "gaps:           0 since this service started" in shown
        as_json = run("show", "default", "--url", url, "--json").out
        assert json.loads(as_json)["gaps"] == {}
        assert_refused(run("show", "ghost", "--url", url), 1, "404", "ghost")
        assert_refused(run("show", "default", "--url", url, "--store", "sqlite:x"), 2, "name one")
        monkeypatch.setenv("IDSERVICE_URL", url)
        assert run("next").out == "4\n"
        assert run("health").code == 0
        monkeypatch.delenv("IDSERVICE_URL")
        monkeypatch.setenv("IDSERVICE_LISTEN", url.replace("http://127.0.0.1", "0.0.0.0"))
        assert run("health").code == 0
        serving.terminate()
        assert serving.end() == 0
    assert_refused(run("health", "--url", url), 1, url)
    assert_refused(run("wait", "--url", url, "--timeout", "0"), 1, url)
    assert_refused(run("next", "--url", url), 1, url)


def test_gaps_are_explained_where_a_service_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps = {"late": {"ids": 7, "why": "it came late"}, "stop": {"ids": 3, "why": "at the stop"}}
    told = json.dumps({"counter": "orders", "next": 40, "gaps": gaps})
    monkeypatch.setattr("idservice.cli.http_get.ask", lambda *_, **__: (200, told))
    lines = run("show", "orders", "--url", "http://127.0.0.1:1").out.splitlines()
    assert lines[:2] == ["counter:   orders", "next:      40"]
    assert lines[2:] == [
        "gaps:      10 since this service started",
        "  late       7: it came late",
        "  stop       3: at the stop",
    ]


@pytest.mark.process
@pytest.mark.parametrize("name", ["health", "wait"])
def test_health_and_wait_load_no_http_library(name: str, tmp_path: Path) -> None:
    arguments = [name, "--url", "http://127.0.0.1:1"]
    if name == "wait":
        arguments += ["--timeout", "0"]
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "idservice", *arguments],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    # The module of a command is imported by name, which is not told; what it imports is.
    assert "idservice.client.address" in loaded
    heavy = {
        "aiohttp", "asyncio", "msgspec", "uvloop", "aioboto3", "botocore", "prometheus_client",
        "sqlite3", "http.client", "urllib.request", "ssl", "difflib",
    }  # fmt: skip
    assert not loaded & heavy


@pytest.mark.process
def test_as_a_program_the_exit_codes_are_0_1_2_3(tmp_path: Path) -> None:
    assert command("init", folder=tmp_path).returncode == 0
    assert command("show", "ghost", folder=tmp_path).returncode == 1
    assert command("show", folder=tmp_path).returncode == 2
    ended = command("show", "a", "--store", "sqlite:gone.db", folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("idservice: The store sqlite:gone.db cannot be used")


@pytest.mark.process
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_standard_stream_ends_no_command(tmp_path: Path, closed: str) -> None:
    store = f"sqlite:{tmp_path / 'a.db'}"
    for arguments in (["init"], ["suspend", "default"], ["counters"]):
        ended = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "idservice",
             *arguments, "--store", store],
            cwd=tmp_path, env=environment(), capture_output=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr


@pytest.mark.process
def test_a_locale_that_cannot_print_a_path_ends_no_command(tmp_path: Path) -> None:
    name = "prüfung" + os.fsdecode(b"\xff.db")  # no ASCII, and no UTF-8
    for arguments in (["init"], ["doctor"], ["show", "ghost"]):
        ended = subprocess.run(
            [sys.executable, "-m", "idservice", *arguments, "--store", f"sqlite:{name}"],
            cwd=tmp_path, env=environment({"PYTHONIOENCODING": "ascii:strict"}),
            capture_output=True, check=False, text=True,
        )  # fmt: skip
        assert "Traceback" not in ended.stderr
        assert ended.returncode == (1 if arguments[0] == "show" else 0), ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "{}"), ("tally", "create", "{}"), ("configure", "{}", "--limit", "9"),
        ("serve", "--default-counter", "{}"), ("serve", "--route", "/a={}"),
        ("key", "create", "--role", "use", "--scope", "{}"),
    ],
)  # fmt: skip
def test_an_access_key_is_no_name_and_is_not_printed(run: Run, arguments: tuple[str, ...]) -> None:
    secret = key_text(Role.ADMIN, range(RANDOM_NUMBERS))
    run("init")
    said = run(*(one.format(secret) for one in arguments))
    assert_refused(said, 2, "access key in it")
    assert secret not in said.out + said.err
