"""The command line: the parser made of the table of commands, and the run of one of them.

The module of a command is imported after the arguments are parsed. `health` and `wait` run every
few seconds, and must not load an HTTP server.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn, TypeAlias

from idservice import __version__, errors
from idservice.cli import hints
from idservice.cli.command import Command
from idservice.cli.commands import COMMANDS, GROUPS, named
from idservice.server import loop, stop_signals
from idservice.server import settings as config
from idservice.server.exits import EXIT_OK, ending

# What other programs call it.
SYNONYMS = {
    "--port": "--listen", "--host": "--listen", "--bind": "--listen", "--address": "--listen",
    "-p": "--listen", "--db": "--store", "--database": "--store", "--file": "--store",
    "--table": "--store", "-n": "--count",
}  # fmt: skip
CHOICE = re.compile(r"invalid choice: '([^']*)'")
SECRET = re.compile(r"//.*@|[^\s']*:[^\s']*@|\?[^\s']+", re.DOTALL)  # what may be one in a URL


_Subparsers: TypeAlias = "argparse._SubParsersAction[_Parser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return ending(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    config.check_environment(os.environ)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] == "help":
        given = [*given[1:], "--help"]
    parsed = _parser(*given).parse_args(given)
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
    absent: Mapping[str, str] = MappingProxyType({})  # words that its group does not have, and why

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split("=")[0].split(" ")[0]
        chosen = CHOICE.search(message)
        meant = ""
        if (word := chosen[1] if chosen else unknown) in self.absent:
            raise errors.Usage(why=f"{word} is refused: {self.absent[word]}")
        if unknown in SYNONYMS and SYNONYMS[unknown] in self.flags:
            meant = f"; it is called {SYNONYMS[unknown]} here"
        elif unknown in self.flags or unknown in {one.flag for one in config.ALL.values()}:
            meant = f"; this command does not take {unknown}, or not before its name"
        elif unknown.startswith("-"):
            meant = config.did_you_mean(unknown, self.flags)
        message = SECRET.sub("...", message)  # argparse shows any word, and words with spaces
        raise errors.Usage(why=f"{message}{meant}; see `{self.prog} --help`")


def _parser(*given: str) -> _Parser:
    """Return the parser of the command that the words name, or of all: they take 10 ms to make."""
    commands = named(given)
    parser = _Parser(
        prog="idservice",
        description="Unique, short numbers over HTTP, from blocks reserved on SQLite or DynamoDB.",
        epilog="Every setting has a variable, which its help names: --store-wait is "
        "IDSERVICE_STORE_WAIT. A flag has priority over its variable. Exit codes: 0 "
        "clean, 1 failure, 2 bad usage, 3 the store cannot be used.",
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
    top = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    groups = {"": top}
    for name, command in commands.items():
        group, _, word = name.rpartition(" ")
        if group not in groups:
            groups[group] = _add_group(top, group)
            parser.absent = GROUPS[group].absent if len(commands) < len(COMMANDS) else {}
        _add_command(groups[group], word, name, command)
    return parser


def _add_group(into: _Subparsers, name: str) -> _Subparsers:
    text = GROUPS[name].text
    group = into.add_parser(name, help=text, description=text, allow_abbrev=False)
    group.absent = GROUPS[name].absent
    return group.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)


def _add_command(into: _Subparsers, word: str, name: str, command: Command) -> None:
    parser = into.add_parser(word, help=command.text, description=command.text, allow_abbrev=False)
    parser.set_defaults(command=name)
    for setting in command.settings:
        _add_setting(parser, setting)
    for argument, options in command.arguments:
        parser.add_argument(argument, **options)


def _add_setting(parser: argparse.ArgumentParser, setting: config.Setting) -> None:
    """Add the flag of a setting; the variable and the default are filled in after parsing."""
    default = f" (default: {setting.shown_default})" if setting.shown_default else ""
    text = f"{setting.help}{default} [{setting.variable}]".replace("%", "%%")
    if not setting.value:
        parser.add_argument(setting.flag, action="store_true", default=None, help=text)
    elif setting.bare:
        parser.add_argument(
            setting.flag, nargs="?", const=setting.bare, metavar=setting.value, help=text
        )
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
