"""The command line: the table of commands, and the parser made of it.

The module of a command is imported after the arguments are parsed. `health` and `wait` run every
few seconds, and must not load an HTTP server.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from idservice import __version__, errors
from idservice.cli import hints
from idservice.core.limits import ID_MAX, NUMBER_MAX, SHARDS_MAX
from idservice.server import loop, stop_signals
from idservice.server import settings as config
from idservice.server.exits import EXIT_OK, ending

SHARDS = (
    "positions that are reserved from side by side, 1 (the default) to 64: more than one is for a"
    " table whose item is too hot, and ids then rise only within each"
)
COUNTERS = "List the counters: state, position, used share of the limit, shards, runway."
NEXT = (
    "Print the next id, or several. They are taken from the store itself, above the ids that"
    " running services hold in memory; with --url a service is asked, as callers ask it."
)
SHOW = "Show a counter, as it is in the store or as a running service reports it."
TOP = "Show a running service and its counters; problems first. Ctrl-C ends it."
BENCH = (
    "Measure a running service, and check that every id it gives is distinct. The ids are real and"
    " are not given to anybody else. Exit 1 on a repeated id, on a broken order, on an answer that"
    " cannot be read, and if no request was answered with ids; errors are counted and do not fail"
    " the run."
)
DOCTOR = (
    "Examine a store and its counters, and say of each finding what it is, why it matters and what"
    " to do. Changes nothing. Exit 1 on a warning or a fault, 0 on nothing worse than advice."
)
COMPLETION = (
    "Print a script with which a shell completes commands and flags. For bash, in ~/.bashrc:"
    ' eval "$(idservice completion bash)".'
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command; `run` is `module:function` in `idservice`. That returns an exit code or a
    coroutine."""

    run: str
    text: str
    settings: tuple[config.Setting, ...] = ()
    arguments: tuple[tuple[str, dict[str, Any]], ...] = ()


def _add(name: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return name, options


def _number(
    flag: str, *, least: int = 0, most: int = ID_MAX, **options: Any
) -> tuple[str, dict[str, Any]]:
    """Return a flag with a number, by default in the range of ids."""
    read = config.whole(least, most)

    def parse(value: str) -> int:
        try:
            return read(value)
        except ValueError as rule:
            raise errors.Usage(why=f"{flag} is {value!r}; it must be {rule}") from None

    return flag, {"metavar": "N", "type": parse, **options}


def _rate(flag: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return a flag with ids per second."""

    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", value, re.ASCII):
            why = f"{flag} is {value!r}; it must be ids per second, as 100 or 0.5"
            raise errors.Usage(why=why)
        return float(value)

    return flag, {"metavar": "R", "type": parse, **options}


NAME = _add("name", metavar="NAME", help="the counter")
JSON = _add("--json", action="store_true", help="print JSON")
REASON = _add("--reason", metavar="TEXT", default="", help="why, for the log and `show`")
BOUNDS = (
    _number("--request-max", help="the most ids of one request; 0: no bound (default)"),
    _rate("--rate-max", help="ids per second that each instance gives; 0: no bound (default)"),
)
STORE = (config.STORE,)
CHANGE = (config.STORE, config.RUNWAY)

COMMANDS = {
    "serve": Command("server.process:run", "Serve ids over HTTP.", config.SERVE),
    "init": Command("cli.store_commands:init", "Create the store with its default counter.", STORE),
    "create": Command(
        "cli.store_commands:create", "Create a counter, or take over an existing one.", CHANGE,
        (
            _add("name", metavar="NAME", help="the name of the counter"),
            _number("--start", help="the first id (default: 0)"),
            _number("--limit", default=NUMBER_MAX, help="the highest id (default: 2^53 - 1)"),
            _add("--strict", action="store_true",
                 help="one order over all instances; a write per batch"),
            _number("--shards", least=1, most=SHARDS_MAX, default=1, help=SHARDS),
            *BOUNDS,
            _add("--adopt-table", metavar="T", help="take over the counter in this DynamoDB table"),
            _add("--adopt-key", metavar="A=V[,A=V]", help="the key of its item"),
            _add("--adopt-attribute", metavar="A", help="the attribute that holds its value"),
            _add("--adopt-returns", choices=("old", "new"),
                 help="the value that its endpoint answers: before the increment, or after it"),
            REASON,
        ),
    ),
    "counters": Command("cli.store_commands:counters", COUNTERS, STORE, (JSON,)),
    "show": Command(
        "cli.store_commands:show", SHOW, (config.STORE, config.URL, config.ANSWER_TIMEOUT),
        (NAME, JSON),
    ),
    "next": Command(
        "cli.next_ids:next_ids", NEXT, (config.STORE, config.URL, config.ANSWER_TIMEOUT),
        (
            _add("--format", choices=("text", "json", "ranges"), default="text",
                 help="one id per line (the default), or as the service answers it"),
            _add("--count", metavar="N", help="number of ids (default: one)"),
            _add("name", nargs="?", metavar="NAME", help="the counter (default: default)"),
        ),
    ),
    "set": Command(
        "cli.change_commands:set_next", "Go on from another id.", CHANGE,
        (
            NAME,
            _number("--next", required=True, help="the id to go on from"),
            _add("--allow-lower", action="store_true", help="even below ids in use: repeats them"),
            _add("--force", action="store_true", help="even over more than a million ids"),
            REASON,
        ),
    ),
    "configure": Command(
        "cli.change_commands:configure", "Change the limit, the runway or the bounds of a counter.",
        (config.STORE,),
        (
            NAME,
            _number("--limit", help="the highest id; the counter goes on where it is"),
            _add("--runway", metavar="S",
                 help="seconds that its ids in memory last without the store, 1 to 86400"),
            *BOUNDS,
            _add("--force", action="store_true",
                 help="even a limit below ids in use: no ids are left"),
            REASON,
        ),
    ),
    "suspend": Command(
        "cli.change_commands:suspend", "Hand out no ids of a counter until it is resumed.", CHANGE,
        (NAME, REASON),
    ),
    "resume": Command("cli.change_commands:resume", "End a suspension.", CHANGE, (NAME, REASON)),
    "reshard": Command(
        "cli.change_commands:reshard", "Give a counter in use another number of shards.", CHANGE,
        (
            NAME,
            _number("--shards", least=1, most=SHARDS_MAX, required=True, help=SHARDS),
            REASON,
        ),
    ),
    "delete": Command(
        "cli.change_commands:delete", "Delete a counter; its ids are not used again.", CHANGE,
        (NAME, REASON),
    ),
    "fence": Command(
        "cli.change_commands:fence", "Go on above every id that may be in use, after a restore.",
        CHANGE,
        (
            _add("name", metavar="NAME", nargs="?", help="the counter"),
            _add("--all", action="store_true", help="every counter, and the store's identity"),
            _number("--past", help="the highest id that may be in use"),
            _number("--ahead", help="distance beyond the highest id known to the store"),
            _add("--dry-run", action="store_true",
                 help="print each counter before and after, and change nothing"),
            _add("--force", action="store_true",
                 help="even over more than a million ids, and even if no ids are left"),
            REASON,
        ),
    ),
    "move": Command(
        "cli.change_commands:move", "Move a counter to another store; its ids go on there, above.",
        CHANGE,
        (
            NAME,
            _add("--to", metavar="URL", required=True,
                 help="the store it goes to, which is initialised"),
            REASON,
        ),
    ),
    "adopt": Command(
        "cli.change_commands:adopt", "End an adoption: the old endpoint stops counting.", CHANGE,
        (
            NAME,
            _add("--finish", action="store_true", help="switch the old endpoint off, for good"),
            REASON,
        ),
    ),
    "doctor": Command("cli.store_commands:doctor", DOCTOR, STORE, (JSON,)),
    "health": Command(
        "cli.http_get:health", "Exit 0 if a service runs here and answers.", (config.URL,),
        (_add("--ready", action="store_true",
              help="also ask whether it can serve the next id"),),
    ),
    "wait": Command(
        "cli.http_get:wait", "Wait until a service is ready; exit 1 if it is not in time.",
        (config.URL, config.TIMEOUT),
    ),
    "top": Command(
        "cli.top:top", TOP, (config.URL, config.INTERVAL),
        (
            _add("--once", action="store_true", help="print it once and exit"),
            _add("--json", action="store_true", help="print JSON, a line for each look"),
        ),
    ),
    "bench": Command(
        "cli.bench.run:bench", BENCH, config.BENCH,
        (_add("where", metavar="URL", help="http(s)://HOST:PORT[/PATH] or unix:PATH"), JSON),
    ),
    "completion": Command(
        "cli.completion:completion", COMPLETION,
        arguments=(
            _add("shell", metavar="SHELL", choices=("bash", "zsh", "fish"),
                 help="bash, zsh or fish"),
        ),
    ),
}  # fmt: skip


# What other programs call it.
SYNONYMS = {
    "--port": "--listen", "--host": "--listen", "--bind": "--listen", "--address": "--listen",
    "-p": "--listen", "--db": "--store", "--database": "--store", "--file": "--store",
    "--table": "--store", "-n": "--count",
}  # fmt: skip
SECRET = re.compile(r"//.*@|[^\s']*:[^\s']*@|\?[^\s']+", re.DOTALL)  # what may be one in a URL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return ending(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    config.check_environment(os.environ)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] == "help":
        given = [*given[1:2], "--help"]
    parsed = _parser(given[0]).parse_args(given)
    command = COMMANDS[parsed.command]
    _fill_in(parsed, command.settings)
    module, _, function = command.run.partition(":")
    try:
        result = getattr(importlib.import_module(f"idservice.{module}"), function)(parsed)
        if isinstance(result, int):
            return result
        with stop_signals.as_ctrl_c():
            return loop.run(result)
    except errors.IdserviceError as error:
        error.args = (hints.at_store(str(error), parsed),)
        raise


# --- the parser -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, without the usage of every flag."""

    flags: tuple[str, ...] = ()  # that the command takes which was named

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split("=")[0].split(" ")[0]
        meant = ""
        if unknown in SYNONYMS and SYNONYMS[unknown] in self.flags:
            meant = f"; it is called {SYNONYMS[unknown]} here"
        elif unknown in self.flags or unknown in {one.flag for one in config.ALL.values()}:
            meant = f"; this command does not take {unknown}, or not before its name"
        elif unknown.startswith("-"):
            meant = config.did_you_mean(unknown, self.flags)
        message = SECRET.sub("...", message)  # argparse shows any word, and words with spaces
        raise errors.Usage(why=f"{message}{meant}; see `{self.prog} --help`")


def _parser(first: str = "") -> _Parser:
    """Return the parser of one command, or of all if `first` is none: they take 10 ms to make."""
    commands = {first: COMMANDS[first]} if first in COMMANDS else COMMANDS
    parser = _Parser(
        prog="idservice",
        description="Unique, short, ordered numbers over HTTP, from blocks reserved on SQLite or"
        " DynamoDB.",
        epilog="Every setting has a variable, which its help names: --store-wait is"
        " IDSERVICE_STORE_WAIT. A flag beats it."
        " Exit codes: 0 clean, 1 failure, 2 bad usage, 3 the store cannot be used.",
        allow_abbrev=False,
    )
    parser.flags = tuple(
        flag
        for command in commands.values()
        for flag in (
            *(one.flag for one in command.settings),
            *(arg for arg, _ in command.arguments),
        )
        if flag.startswith("-")
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="print versions and exit")
    subparsers = parser.add_subparsers(
        metavar="COMMAND", dest="command", required=True, parser_class=_Parser
    )
    for name, command in commands.items():
        sub = subparsers.add_parser(
            name, help=command.text, description=command.text, allow_abbrev=False
        )
        for setting in command.settings:
            _add_setting(sub, setting)
        for argument, options in command.arguments:
            sub.add_argument(argument, **options)
    return parser


def _add_setting(parser: argparse.ArgumentParser, setting: config.Setting) -> None:
    """Add the flag of a setting; the variable and the default are filled in after parsing."""
    default = f" (default: {setting.shown_default})" if setting.shown_default else ""
    text = f"{setting.help}{default} [{setting.variable}]".replace("%", "%%")
    if not setting.value:
        parser.add_argument(setting.flag, action="store_true", default=None, help=text)
    else:
        action = "append" if setting.many else "store"
        parser.add_argument(setting.flag, action=action, metavar=setting.value, help=text)


def _fill_in(parsed: argparse.Namespace, settings: Sequence[config.Setting]) -> None:
    """Set each setting to its flag, else its variable, else its default. Raises Usage."""
    for setting in settings:
        given = getattr(parsed, setting.name)
        if given is None:
            value = config.from_environment(setting, os.environ)
        elif setting.many:
            value = tuple(config.parsed(setting, part, setting.flag) for part in given)
        else:
            value = given if given is True else config.parsed(setting, given, setting.flag)
        setattr(parsed, setting.name, value)
        # A default gives way to a value of the counter; a flag does not.
        setattr(parsed, f"{setting.name}_said", given is not None)


class _Version(argparse.Action):
    """Looks the versions up only when asked: it takes longer than a health check."""

    def __call__(self, *_: object) -> NoReturn:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        found = []
        for package in ("uvloop", "aiohttp", "aioboto3"):
            try:
                found.append(f"{package} {version(package)}")
            except PackageNotFoundError:
                found.append(f"no {package}")
        python = f"{platform.python_implementation()} {platform.python_version()}"
        print(f"idservice {__version__} ({python}, {', '.join(found)})")
        sys.exit(EXIT_OK)
