"""Settings: flag, else variable, else default; and every value that is refused."""

import argparse
import os
from typing import Any

import pytest

from idservice import errors
from idservice.cli import main
from idservice.server import process, settings
from idservice.server.listen_address import Address

# flag: (text of the flag, its value, text of the variable, its value); text None: a switch
SAMPLES: dict[str, tuple[str | None, Any, str, Any]] = {
    "--store": ("sqlite:a.db", "sqlite:a.db", "dynamodb:t", "dynamodb:t"),
    "--store-key-file": ("/a/key", "/a/key", "b", "b"),
    "--init": (None, True, "0", False),
    "--listen": (
        "[::1]:1", (Address("::1", 1),),
        "unix:/a, 127.0.0.1:2", (Address("", 0, "/a"), Address("127.0.0.1", 2)),
    ),
    "--admin-listen": (
        "127.0.0.1:1", Address("127.0.0.1", 1),
        "https://[::1]:2", Address("::1", 2, tls=True),
    ),
    "--tls-cert": ("a.pem", "a.pem", "b.pem", "b.pem"),
    "--tls-key": ("a.pem", "a.pem", "b.pem", "b.pem"),
    "--allow-changes": (None, True, "0", False),
    "--require-keys": ("all", "all", "1", "remote"),
    "--default-counter": ("a", "a", "b", "b"),
    "--route": ("/a=b", (("/a", "b"),), "/c=d,/e/f=g", (("/c", "d"), ("/e/f", "g"))),
    "--runway": ("1", 1.0, "86400", 86_400.0),
    "--store-wait": ("0", 0.0, "0.25", 0.25),
    "--wait": ("0.05", 0.05, "60", 60.0),
    "--waiters-max": ("1", 1, "5", 5),
    "--batch-max": ("1", 1, "1000000", 1_000_000),
    "--range-max": ("2", 2, "3", 3),
    "--block-max": ("10", 10, "11", 11),
    "--connections-max": ("1", 1, "2", 2),
    "--workers": ("64", 64, "auto", len(os.sched_getaffinity(0))),
    "--drain": ("0", 0.0, "8", 8.0),
    "--idle-timeout": ("610", 610.0, "70.5", 70.5),
    "--hold": ("1", 1.0, "60", 60.0),
    "--metrics-counters": ("0", 0, "7", 7),
    "--log": ("json", "json", "text", "text"),
    "--access-log": (None, True, "no", False),
    "--otel": (None, True, "no", False),
}  # fmt: skip
DEFAULTS = {
    "--store": None,
    "--store-key-file": None,
    "--init": False,
    "--listen": (Address("127.0.0.1", 8080),),
    "--admin-listen": None,
    "--tls-cert": None,
    "--tls-key": None,
    "--allow-changes": False,
    "--require-keys": None,
    "--default-counter": "default",
    "--route": (),
    "--runway": 30.0,
    "--store-wait": 30.0,
    "--wait": 2.0,
    "--waiters-max": 10_000,
    "--batch-max": 10_000,
    "--range-max": 1_000_000,
    "--block-max": 10**12,
    "--connections-max": 10_000,
    "--workers": 1,
    "--drain": 1.0,
    "--idle-timeout": 75.0,
    "--hold": 10.0,
    "--metrics-counters": 100,
    "--log": "auto",
    "--access-log": False,
    "--otel": False,
}
WHOLE = ["", "-1", "+1", "1.0", "1_0", " 1", "1 ", "٣", "1e3", "0x1", "x", "9" * 20]
SECONDS = ["", "-1", "+1", ".5", "1.", "1_0", " 1", "1s", "٣", "1e1", "inf", "nan", "9" * 12]
BAD: dict[str, list[str]] = {
    "--store": [""],
    "--store-key-file": [""],
    "--init": ["", "maybe", "2"],
    "--listen": [
        "", "a", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:x", "::1:1", "unix:",
        "http://127.0.0.1:1", "https://127.0.0.1", "https://127.0.0.1:1/", "HTTPS://127.0.0.1:1",
        "https:127.0.0.1:1", "https://unix:/a", "https:unix:/a", "https:///a",
    ],
    "--admin-listen": ["", ":1", "https://:1"],
    "--tls-cert": [""],
    "--tls-key": [""],
    "--allow-changes": ["", "maybe"],
    "--default-counter": [""],
    "--route": [
        "", "a", "/a", "/a=", "=b", "a=b", "/a b=c", "/a?b=c", "/{x}=c", "/é=c",
        "/livez=c", "/readyz=c", "/metrics=c", "/openapi.json=c", "/v1/counters/a/next=c",
    ],
    "--require-keys": ["", "some", "tcp"],
    "--runway": [*SECONDS, "0", "0.9", "86401"],
    "--store-wait": [*SECONDS, "3601"],
    "--wait": [*SECONDS, "0", "61"],
    "--waiters-max": [*WHOLE, "0", "1000001"],
    "--batch-max": [*WHOLE, "0", "1000001"],
    "--range-max": [*WHOLE, "0", "100000001"],
    "--block-max": [*WHOLE, "9", "1000000000001"],
    "--connections-max": [*WHOLE, "0", "1000001"],
    "--workers": [*WHOLE, "0", "65", "AUTO"],
    "--drain": [*SECONDS, "8.1"],
    "--idle-timeout": [*SECONDS, "4.9", "86401"],
    "--hold": [*SECONDS, "0.9", "60.1"],
    "--metrics-counters": [*WHOLE, "100001"],
    "--log": ["", "xml", "JSON"],
    "--access-log": ["", "maybe"],
    "--otel": ["", "maybe"],
}  # fmt: skip


def settled(*arguments: str) -> argparse.Namespace:
    """The settings of a `serve` with these arguments."""
    parsed = main._parser("serve").parse_args(["serve", *arguments])
    main._fill_in(parsed, settings.SERVE)
    return parsed


def test_the_tables_here_name_every_setting() -> None:
    flags = {setting.flag for setting in settings.SERVE}
    assert flags == set(SAMPLES) == set(DEFAULTS) == set(BAD)


@pytest.mark.parametrize("setting", settings.SERVE, ids=lambda setting: setting.flag)
def test_a_flag_beats_the_variable_which_beats_the_default(
    setting: settings.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value, variable_text, variable_value = SAMPLES[setting.flag]
    flag = [setting.flag] if text is None else [setting.flag, text]
    assert getattr(settled(), setting.name) == DEFAULTS[setting.flag]
    assert getattr(settled(*flag), setting.name) == value
    assert getattr(settled(*flag), f"{setting.name}_said") is True
    monkeypatch.setenv(setting.variable, variable_text)
    settings.check_environment({setting.variable: variable_text})
    assert getattr(settled(), setting.name) == variable_value
    assert getattr(settled(), f"{setting.name}_said") is False
    assert getattr(settled(*flag), setting.name) == value
    assert setting.variable == "IDSERVICE_" + setting.flag[2:].upper().replace("-", "_")


@pytest.mark.parametrize("flag", ["--listen", "--route"])
def test_a_repeated_flag_has_all_its_values(flag: str) -> None:
    setting = next(setting for setting in settings.SERVE if setting.flag == flag)
    text, value, *_ = SAMPLES[flag]
    assert text
    assert getattr(settled(flag, text, flag, text), setting.name) == value * 2


@pytest.mark.parametrize("word", ["1", "true", "YES", "True"])
def test_a_switch_is_on_by_a_word(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDSERVICE_ACCESS_LOG", word)
    assert settled().access_log is True


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param(setting, value, id=f"{setting.flag}={value[:30]}")
        for setting in settings.SERVE
        for value in BAD[setting.flag]
    ],
)
def test_a_bad_value_is_refused_with_the_value_and_the_rule(
    setting: settings.Setting,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(process, "serve", None)  # nothing is started, should it be accepted
    sources = [setting.variable, setting.flag] if setting.value else [setting.variable]
    for source in sources:
        if source == setting.variable:
            monkeypatch.setenv(source, value)
            code = main.main(["serve"])
            monkeypatch.delenv(source)
        else:
            code = main.main(["serve", f"{source}={value}"])
        said = capsys.readouterr()
        assert code == 2
        assert said.out == ""
        rule = f"{source} is {value!r}; it must be " if value else f"{source} is empty."
        assert said.err.startswith(f"idservice: {rule}")
        assert said.err.count("\n") == 1
        assert len(said.err) < 250


@pytest.mark.parametrize(
    "variable",
    [
        "IDSERVICE_SERVICE_HOST",
        "IDSERVICE_SERVICE_PORT",
        "IDSERVICE_SERVICE_PORT_HTTP",
        "IDSERVICE_PORT",
        "IDSERVICE_PORT_8080_TCP",
        "IDSERVICE_PORT_8080_TCP_ADDR",
        "IDSERVICE_PORT_8080_TCP_PORT",
        "IDSERVICE_PORT_8080_TCP_PROTO",
        "IDSERVICE_PORT_53_UDP",
        "IDSERVICE_ORDERS_SERVICE_HOST",
        "IDSERVICE_ORDERS_SERVICE_PORT_HTTP",
        "IDSERVICE_ORDERS_2_PORT",
        "IDSERVICE_ORDERS_2_PORT_8080_TCP_ADDR",
        "IDSERVICES_STORE",
        "IDSERVICE_KEY",
        "OTHER",
    ],
)
def test_variables_of_kubernetes_and_others_are_not_ours(variable: str) -> None:
    settings.check_environment({variable: "tcp://10.0.0.1:8080"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("IDSERVICE_STOER", "did you mean IDSERVICE_STORE?"),
        ("IDSERVICE_LISTEN_ADDRESS", "did you mean IDSERVICE_LISTEN?"),
        ("IDSERVICE_STORE-WAIT", "did you mean IDSERVICE_STORE_WAIT?"),
        ("IDSERVICE_KEYS", "did you mean IDSERVICE_KEY?"),
        ("IDSERVICE_store", ""),
        ("IDSERVICE_", ""),
        ("IDSERVICE_XYZZY", ""),
        ("IDSERVICE_PORTS", ""),
        ("IDSERVICE_PORT", ""),
        ("IDSERVICE_ADMIN_PORT", ""),
    ],
)
def test_an_unknown_variable_is_refused(variable: str, meant: str) -> None:
    with pytest.raises(errors.Usage, match="is not a setting") as caught:
        settings.check_environment({variable: "x"})
    assert variable in str(caught.value)
    assert meant in str(caught.value)


@pytest.mark.parametrize(
    ("text", "local", "private", "url"),
    [
        ("127.0.0.1:1", True, True, "http://127.0.0.1:1"),
        ("https://[::]:1", False, True, "https://[::]:1"),
        ("ids.example:1", False, False, "http://ids.example:1"),
        ("unix:/a", True, True, "unix:/a"),
    ],
)
def test_an_address_tells_who_can_read_what_is_sent_there(
    text: str, local: bool, private: bool, url: str
) -> None:
    address = Address.parse(text)
    assert (address.is_local, address.is_private, address.url) == (local, private, url)
    assert str(address) == text
