"""Every setting: one row with its name, type, default, rule and help.

A row is a field of a record (`ServeSettings`, `BenchSettings`). Flag, environment variable, help
and the documentation follow from it, and the record is what the program reads. A flag beats the
variable, which beats the default. An unknown variable with our prefix is an error, like an unknown
flag.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from idservice import errors
from idservice.client.address import KEY_VARIABLE, shown
from idservice.core.sizing import BLOCK_MAX
from idservice.server.listen_address import ADMIN_DEFAULT, LISTEN_DEFAULT, Address

Record = TypeVar("Record")

PREFIX = "IDSERVICE_"
STORE_DEFAULT = "sqlite:idservice.db"
WORKERS_MAX = 64
OWN_PATHS = re.compile(r"/(livez|readyz|metrics|docs|openapi\.json|v1(/.*)?)")
# Kubernetes sets these variables in every container of a namespace with a Service that is called
# "idservice", or "idservice-orders" if there are several. They are not misspelt settings. Nor is a
# misspelt setting one of them: IDSERVICE_PORT=9000 does not come from Kubernetes.
FROM_KUBERNETES = re.compile(
    PREFIX + r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP))?(?==[a-z]+://)|PORT_[0-9]+_(TCP|UDP|SCTP)_[A-Z]+)=.*"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `parse` reads its text, and raises ValueError with the rule."""

    name: str  # also the attribute of the parsed arguments
    default: Any
    parse: Callable[[str], Any]
    help: str
    value: str = ""  # the name of its value in the help; empty for a switch
    many: bool = False  # a flag that may be repeated; a variable separates values by commas
    unset: str = ""  # the effect of the default None
    bare: str = ""  # the value if its flag is given without one; empty if the flag needs one

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def shown_default(self) -> str:
        """The default as the help shows it; empty for a switch and for an empty list."""
        if self.default is None or not self.value:
            return self.unset
        if self.many:
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def row(
    default: Any,
    parse: Callable[[str], Any],
    help: str,
    value: str = "",
    *,
    many: bool = False,
    unset: str = "",
    bare: str = "",
) -> Any:
    """Return a field of a settings record; see `Setting`."""
    return field(default=default, metadata={"setting": (parse, help, value, many, unset, bare)})


def rows(record: type) -> dict[str, Setting]:
    """Return the settings of a record by name."""
    return {
        one.name: Setting(one.name, one.default, *one.metadata["setting"]) for one in fields(record)
    }


def taken(record: type[Record], arguments: argparse.Namespace) -> Record:
    """Return a settings record with the values of the parsed arguments."""
    return record(**{name: getattr(arguments, name) for name in rows(record)})


# --- rules ----------------------------------------------------------------------------------------


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return a reader of a time in seconds within bounds."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
            raise ValueError(f"from {least:g} to {most:g} seconds, in digits such as 30 or 0.5")
        if not least <= float(text) <= most:
            raise ValueError(f"from {least:g} to {most:g} seconds")
        return float(text)

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of a whole number within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return read


def process_count(text: str) -> int:
    """Read a number of processes, or `auto`: one for each core that may be used."""
    if text == "auto":
        allowed = getattr(os, "sched_getaffinity", None)  # not on every system
        cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
        return min(cores, WORKERS_MAX)
    try:
        return whole(1, WORKERS_MAX)(text)
    except ValueError as rule:
        raise ValueError(f"{rule}, or auto") from None


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return read


def switch(text: str) -> bool:
    """Read yes or no, as a variable has it."""
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError("1 or 0")
    return text.lower() in ("1", "true", "yes")


def asking(text: str) -> str | None:
    """Read which listeners ask for a key."""
    if text.lower() == "all":
        return "all"
    try:
        return "remote" if switch(text) else None
    except ValueError as rule:
        raise ValueError(f"{rule}, or all") from None


def path_route(value: str) -> tuple[str, str]:
    """Read PATH=COUNTER."""
    path, equals, counter = value.rpartition("=")
    if not (equals and counter and re.fullmatch(r"/[A-Za-z0-9._~/-]*", path, re.ASCII)):
        raise ValueError("PATH=COUNTER, where PATH begins with / and is plain letters")
    if OWN_PATHS.fullmatch(path):
        raise ValueError("PATH=COUNTER, where PATH is not one of the service itself")
    return path, counter


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """The settings of `serve`."""

    store: str | None = row(
        None, str,
        "where the counters are: sqlite:PATH, dynamodb:TABLE[?region=R&endpoint=URL] or, another"
        " idservice, http://HOST:PORT", "URL", unset=STORE_DEFAULT,
    )  # fmt: skip
    store_key_file: str | None = row(
        None, str,
        "file with the access key for the "
        "idservice that is the store; it is "
        "read again when the key is refused", "FILE", unset="the key in IDSERVICE_KEY, if any",
    )  # fmt: skip
    init: bool = row(False, switch, "create the store if it is missing or empty")
    listen: tuple[Address, ...] = row(
        (LISTEN_DEFAULT,), Address.parse,
        "address for requests, HOST:PORT, https://HOST:PORT or unix:PATH; may be repeated",
        "ADDRESS", many=True,
    )  # fmt: skip
    admin_listen: Address | None = row(  # noqa: RUF009  it makes a field
        None, Address.parse,
        "address for metrics and counters; used if --listen can be reached from outside, or if"
        " named", "ADDRESS", unset=str(ADMIN_DEFAULT),
    )  # fmt: skip
    tls_cert: str | None = row(
        None, str,
        "PEM file with the certificate of https addresses, and after it the intermediate "
        "certificates",
        "FILE", unset="none",
    )  # fmt: skip
    tls_key: str | None = row(
        None, str,
        "PEM file with the private key of the certificate; the key must not be encrypted",
        "FILE", unset="none",
    )  # fmt: skip
    allow_changes: bool = row(
        False, switch,
        "let requests to loopback and Unix listeners change counters; not where a proxy or a"
        " forwarded port leads there",
    )  # fmt: skip
    require_keys: str | None = row(
        None, asking,
        "ask each request for an access key on TCP listeners that other machines can reach; with"
        " `all` on every listener", "all", unset="no listener asks", bare="1",
    )  # fmt: skip
    default_counter: str = row("default", str, "the counter behind /next", "NAME")
    route: tuple[tuple[str, str], ...] = row(
        (), path_route, "serve a counter at an old path, too; may be repeated", "PATH=COUNTER",
        many=True,
    )  # fmt: skip
    runway: float = row(
        30.0, seconds(1, 86_400),
        "seconds that the ids in memory last without the store, for counters without their own"
        " runway", "S",
    )  # fmt: skip
    store_wait: float = row(
        30.0, seconds(0, 3600), "seconds to wait for the store at the start", "S"
    )
    hold: float = row(
        10.0, seconds(1, 60), "longest time in seconds to keep ids borrowed from another idservice",
        "S",
    )  # fmt: skip
    wait: float = row(
        2.0, seconds(0.05, 60), "seconds a request waits for ids before it is answered 503", "S"
    )
    waiters_max: int = row(10_000, whole(1, 1_000_000), "requests that may wait per counter", "N")
    batch_max: int = row(
        10_000, whole(1, 1_000_000), ("ids that one request may get one by one"), "N"
    )
    range_max: int = row(
        1_000_000, whole(1, 100_000_000), ("ids that one request may get as ranges"), "N"
    )
    block_max: int = row(
        BLOCK_MAX, whole(10, BLOCK_MAX),
        "ids that one write to the store may reserve; fewer if the counter nears its limit", "N"
    )  # fmt: skip
    connections_max: int = row(
        10_000, whole(1, 1_000_000),
        "connections that may be open, over all workers; fewer if the file descriptor limit is"
        " lower", "N",
    )  # fmt: skip
    idle_timeout: float = row(
        75.0, seconds(5, 86_400),
        "seconds after which a connection without requests is closed: longer than a load balancer"
        " keeps its own", "S",
    )  # fmt: skip
    workers: int = row(
        1, process_count,
        f"processes that share the work, 1 to {WORKERS_MAX}; `auto` for one per core", "N|auto",
    )  # fmt: skip
    drain: float = row(
        1.0, seconds(0, 8), "seconds to go on answering, as not ready, after a stop signal", "S"
    )
    metrics_counters: int = row(
        100, whole(0, 100_000), "counters with their own label on /metrics", "N"
    )
    log: str = row(
        "auto", one_of("auto", "json", "text"),
        "format of log lines; auto is text on a terminal, else json", "auto|json|text",
    )  # fmt: skip
    access_log: bool = row(False, switch, "log each request; costs more than the request itself")
    otel: bool = row(
        False, switch,
        "send traces and metrics by OpenTelemetry, as the variables OTEL_... say; needs the "
        "extra idservice-blocks[otel], and costs several times as much as a request",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """The settings of `bench`."""

    counter: str | None = row(None, str, "the counter", "NAME", unset="the one behind /next")
    count: int | None = row(
        None, whole(1, 100_000_000), "ids per request", "N", unset="one, without a count"
    )
    ranges: bool = row(False, switch, "ask for ranges (format=ranges)")
    connections: int = row(64, whole(1, 100_000), "connections to keep open", "N")
    rate: int | None = row(
        None, whole(1, 1_000_000),
        "requests per second to send, answered or not", "R",
        unset="each connection asks again as soon as it is answered",
    )  # fmt: skip
    duration: float = row(10.0, seconds(0.1, 86_400), "seconds to measure", "S")
    warmup: float = row(
        1.0,
        seconds(0, 3600),
        ("seconds of load before the measurement; its ids are checked, too"),
        "S",
    )
    unordered: bool = row(
        False, switch,
        "do not check that ids rise: behind a load balancer or a sidecar that is not promised",
    )  # fmt: skip


SERVE = tuple(rows(ServeSettings).values())
STORE, STORE_KEY_FILE, RUNWAY, LISTEN, ADMIN_LISTEN, REQUIRE_KEYS, TLS_CERT, TLS_KEY = (
    rows(ServeSettings)[name]
    for name in (
        "store", "store_key_file", "runway", "listen", "admin_listen", "require_keys", "tls_cert",
        "tls_key",
    )
)  # fmt: skip
# Of the commands that ask a running service.
URL = Setting(
    "url", None, str, "the service, http(s)://HOST:PORT or unix:PATH", "URL",
    unset="the one that runs here as this user, else where --listen says",
)  # fmt: skip
KEY_FILE = Setting(
    "key_file", None, str, "file with the access key for the service", "FILE",
    unset="the key in IDSERVICE_KEY, if any",
)  # fmt: skip
TIMEOUT = Setting("timeout", 30.0, seconds(0, 3600), "seconds to wait", "S")
ANSWER_TIMEOUT = Setting(
    "timeout", 5.0, seconds(0.1, 3600), "seconds to wait for an answer of the service", "S"
)
INTERVAL = Setting("interval", 1.0, seconds(0.1, 3600), "seconds between two refreshes", "S")
BENCH = tuple(rows(BenchSettings).values())
ALL = {setting.variable: setting for setting in (*SERVE, URL, KEY_FILE, TIMEOUT, INTERVAL, *BENCH)}


# --- values ---------------------------------------------------------------------------------------


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables with our prefix that are not settings. Raises Usage."""
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in ALL or variable == KEY_VARIABLE:
            continue
        if FROM_KUBERNETES.fullmatch(f"{variable}={value}"):
            continue
        meant = did_you_mean(variable, (*ALL, KEY_VARIABLE))
        raise errors.Usage(why=f"the environment variable {variable} is not a setting{meant}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like `word`; empty if none is."""
    import difflib  # only after a mistake: it is slow to load

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def from_environment(setting: Setting, environment: Mapping[str, str]) -> Any:
    """Return the value of a setting that no flag names. Raises Usage."""
    value = environment.get(setting.variable)
    if value is None:
        return setting.default
    if setting.many:
        return tuple(parsed(setting, part.strip(), setting.variable) for part in value.split(","))
    return parsed(setting, value, setting.variable)


def parsed(setting: Setting, value: str, source: str) -> Any:
    """Return a value read by the rule of its setting. Raises Usage."""
    if not value:
        raise errors.Usage(why=f"{source} is empty")
    try:
        return setting.parse(value)
    except ValueError as rule:
        raise errors.Usage(why=f"{source} is {shown(value)}; it must be {rule}") from None
