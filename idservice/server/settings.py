"""Every setting: one row with its flag, variable, default, unit and help.

A flag beats the environment (`IDSERVICE_` and the flag's name), which beats the default. A variable
of that prefix that is no setting is an error, as an unknown flag is.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from idservice import errors

PREFIX = "IDSERVICE_"
STORE_DEFAULT = "sqlite:idservice.db"
LISTEN_DEFAULT = "127.0.0.1:8080"
WORKERS_MAX = 64
OWN_PATHS = re.compile(r"/(livez|readyz|metrics|openapi\.json|v1(/.*)?)")
# What Kubernetes sets in every container beside a Service that is called "idservice" or, as one of
# several may be, "idservice-orders". It must not be mistaken for a misspelt setting, nor the other
# way round: IDSERVICE_PORT=9000 is not from there.
FROM_KUBERNETES = re.compile(
    PREFIX + r"([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_[0-9]+_(TCP|UDP|SCTP))?(?==[a-z]+://)|PORT_[0-9]+_(TCP|UDP|SCTP)_[A-Z]+)=.*"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `parse` reads a flag's or a variable's text and raises ValueError with the
    rule; a `many` setting may be repeated as a flag, and is separated by commas in a variable."""

    flag: str
    default: Any
    parse: Callable[[str], Any]
    help: str
    value: str = ""  # how the help names the value; empty for a switch
    many: bool = False

    @property
    def name(self) -> str:
        """The attribute of the parsed arguments."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A reader of a time in seconds within bounds."""

    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text, re.ASCII):
            raise ValueError("a number of seconds such as 30 or 0.5")
        if not least <= float(text) <= most:
            raise ValueError(f"from {least:g} to {most:g} seconds")
        return float(text)

    return read


def whole(least: int, most: int) -> Callable[[str], int]:
    """A reader of a whole number within bounds."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return int(text)

    return read


def workers(text: str) -> int:
    """A reader of a number of processes, or `auto`: as many as cores may be used."""
    if text == "auto":
        allowed = getattr(os, "sched_getaffinity", None)  # not on every system
        cores = len(allowed(0)) if allowed is not None else os.cpu_count() or 1
        return min(cores, WORKERS_MAX)
    try:
        return whole(1, WORKERS_MAX)(text)
    except ValueError as rule:
        raise ValueError(f"{rule}, or auto") from None


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(" or ".join(words))
        return text

    return read


def switch(text: str) -> bool:
    """A reader of yes or no, as a variable has it."""
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError("1 or 0")
    return text.lower() in ("1", "true", "yes")


def text(value: str) -> str:
    """A reader of any text but none."""
    if not value:
        raise ValueError("something, not nothing")
    return value


def route(value: str) -> tuple[str, str]:
    """A reader of PATH=COUNTER."""
    path, equals, counter = value.rpartition("=")
    if not (equals and counter and re.fullmatch(r"/[A-Za-z0-9._~/-]*", path, re.ASCII)):
        raise ValueError("PATH=COUNTER, where PATH begins with / and is plain letters")
    if OWN_PATHS.fullmatch(path):
        raise ValueError("PATH=COUNTER, where PATH is none that the service needs for itself")
    return path, counter


STORE = Setting(
    "--store", None, text,
    f"where the counters are: sqlite:PATH, dynamodb:TABLE[?region=R&endpoint=URL] or, another"
    f" idservice, http://HOST:PORT (default {STORE_DEFAULT})",
    "URL",
)  # fmt: skip
RUNWAY = Setting(
    "--runway", 30.0, seconds(1, 86_400),
    "seconds the ids in memory shall last without the store, for counters that name none"
    " (default 30)",
    "S",
)  # fmt: skip
LISTEN = Setting(
    "--listen", [LISTEN_DEFAULT], text,
    f"address for requests, HOST:PORT or unix:PATH; may be repeated (default {LISTEN_DEFAULT})",
    "ADDRESS", many=True,
)  # fmt: skip
SERVE = (
    STORE,
    Setting("--init", False, switch, "create the store where it is missing or empty"),
    LISTEN,
    Setting(
        "--admin-listen", None, text,
        "address for metrics and counters; used when --listen is reachable from outside, or when"
        " named (default 127.0.0.1:9090)",
        "ADDRESS",
    ),
    Setting(
        "--default-counter", "default", text, "the counter behind /next (default: default)", "NAME"
    ),
    Setting(
        "--route", [], route, "serve a counter at an old path too; may be repeated",
        "PATH=COUNTER", many=True,
    ),
    RUNWAY,
    Setting(
        "--store-wait", 30.0, seconds(0, 3600),
        "seconds to wait for the store at the start (default 30)", "S",
    ),
    Setting(
        "--hold", 10.0, seconds(1, 60),
        "seconds to keep ids that another idservice lent, at most (default 10)", "S",
    ),
    Setting(
        "--wait", 2.0, seconds(0.05, 60),
        "seconds a request waits for ids before it is answered 503 (default 2)", "S",
    ),
    Setting(
        "--waiters-max", 10_000, whole(1, 1_000_000),
        "requests that may wait per counter (default 10000)", "N",
    ),
    Setting(
        "--batch-max", 10_000, whole(1, 1_000_000),
        "ids one request may have written out (default 10000)", "N",
    ),
    Setting(
        "--range-max", 1_000_000, whole(1, 100_000_000),
        "ids one request may have as ranges (default 1000000)", "N",
    ),
    Setting(
        "--block-max", 10_000_000, whole(10, 1_000_000_000),
        "ids one write to the store may reserve (default 10000000)", "N",
    ),
    Setting(
        "--connections-max", 10_000, whole(1, 1_000_000),
        "connections that may be open, over all workers; fewer where the file descriptor limit is"
        " lower"
        " (default 10000)", "N",
    ),
    Setting(
        "--workers", 1, workers,
        f"processes that share the work; `auto` for one per core (1 to {WORKERS_MAX}, default 1)",
        "N|auto",
    ),
    Setting(
        "--drain", 1.0, seconds(0, 8),
        "seconds to go on answering, as not ready, after a stop signal (default 1)", "S",
    ),
    Setting(
        "--metrics-counters", 100, whole(0, 100_000),
        "counters with a label of their own on /metrics (default 100)", "N",
    ),
    Setting(
        "--log", "auto", one_of("auto", "json", "text"),
        "how log lines are written (default: text on a terminal, else json)", "auto|json|text",
    ),
    Setting(
        "--access-log", False, switch, "log each request; costs more than the request itself"
    ),
    Setting(
        "--otel", False, switch,
        "send traces and metrics by OpenTelemetry, where the variables OTEL_... say; needs the"
        " extra idservice[otel], and costs several times the request itself",
    ),
)  # fmt: skip
URL = Setting(
    "--url", None, text,
    f"the service, http://HOST:PORT or unix:PATH (default: where --listen says, else"
    f" http://{LISTEN_DEFAULT})",
    "URL",
)  # fmt: skip
TIMEOUT = Setting("--timeout", 30.0, seconds(0, 3600), "seconds to wait (default 30)", "S")
INTERVAL = Setting(
    "--interval", 1.0, seconds(0.1, 3600), "seconds from one look to the next (default 1)", "S"
)
BENCH = (
    Setting("--counter", None, text, "the counter (default: the one behind /next)", "NAME"),
    Setting(
        "--count", None, whole(1, 100_000_000), "ids per request (default: one, without a count)",
        "N",
    ),
    Setting("--ranges", False, switch, "ask for ranges (format=ranges)"),
    Setting(
        "--connections", 64, whole(1, 100_000), "connections to keep open (default 64)", "N"
    ),
    Setting(
        "--rate", None, whole(1, 1_000_000),
        "requests per second to send, whether or not those before are answered (default: each"
        " connection asks anew as soon as it is answered)", "R",
    ),
    Setting("--duration", 10.0, seconds(0.1, 86_400), "seconds to measure (default 10)", "S"),
    Setting(
        "--warmup", 1.0, seconds(0, 3600),
        "seconds of load before them, checked but not measured (default 1)", "S",
    ),
    Setting(
        "--unordered", False, switch,
        "do not check that ids rise: behind a load balancer or a sidecar that is not promised",
    ),
)  # fmt: skip
ALL = {setting.variable: setting for setting in (*SERVE, URL, TIMEOUT, INTERVAL, *BENCH)}


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables of our prefix that are no settings. Raises Usage."""
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in ALL:
            continue
        if FROM_KUBERNETES.fullmatch(f"{variable}={value}"):
            continue
        import difflib  # only where something is wrong: it is slow to load

        near = difflib.get_close_matches(variable, ALL, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise errors.Usage(why=f"the environment variable {variable} is no setting{meant}")


def from_environment(setting: Setting, environment: Mapping[str, str]) -> Any:
    """A setting's value where no flag names one. Raises Usage."""
    value = environment.get(setting.variable)
    if value is None:
        return list(setting.default) if setting.many else setting.default
    if setting.many:
        return [parsed(setting, part.strip(), setting.variable) for part in value.split(",")]
    return parsed(setting, value, setting.variable)


def parsed(setting: Setting, value: str, source: str) -> Any:
    """A value read by its setting's rule. Raises Usage."""
    try:
        return setting.parse(value)
    except ValueError as rule:
        raise errors.Usage(why=f"{source} is {value!r}; it must be {rule}") from None
