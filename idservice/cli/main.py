"""The command line: what can be said."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from idservice import __version__, errors
from idservice.cli import change_commands, diagnose, service_commands, store_commands
from idservice.server import settings as config
from idservice.server.exits import EXIT_OK, ending

SHOW = "Show a counter, as it stands in the store or as a running service tells it."
TOP = "Show a running service, its counters and what is wrong with them; q quits."
BENCH = (
    "Measure a running service, and check that every id it gives is distinct. It takes ids for"
    " real: nobody else will get them. Exit 1 on a repeated id, on a broken order, on an answer"
    " that cannot be read, and where nothing was answered; errors are counted and no failure."
)

SHARDS = (
    "positions that are reserved from side by side, 1 (the default) to 64: more than one is for"
)
SHARDS += " a table's item that is too hot, and ids then rise only within each"
DOCTOR = (
    "Look over a store and its counters, and say of each thing found what it is, why it matters"
    " and what to do. Changes nothing. Exit 1 on a warning or a fault, 0 on nothing worse than"
    " advice."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    return ending(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    config.check_environment(os.environ)
    parsed = _parser().parse_args(arguments)
    _fill_in(parsed)
    code: int = parsed.run(parsed)
    return code


# --- what can be said -----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, without the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split("=")[0].split(" ")[0]
        flags = [setting.flag for setting in config.ALL.values()]
        meant = ""
        if unknown in flags:
            meant = f"; this command does not take {unknown}, or not before its name"
        elif unknown.startswith("-"):
            import difflib  # only where something is wrong: it is slow to load

            near = difflib.get_close_matches(unknown, flags, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
        raise errors.Usage(why=f"{message}{meant}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="idservice",
        description="Unique, short, ordered numbers over HTTP, from blocks reserved on SQLite or"
        " DynamoDB.",
        epilog="Every setting has a variable, which its help names: --store-wait is"
        " IDSERVICE_STORE_WAIT. A flag beats it."
        " Exit codes: 0 clean, 1 failure, 2 bad usage, 3 the store cannot be used.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *settings: config.Setting
    ) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, settings=settings)
        for setting in settings:
            _add(sub, setting)
        return sub

    command("serve", store_commands.serve, "Serve ids over HTTP.", *config.SERVE)
    command("init", store_commands.init, "Create the store with its default counter.", config.STORE)
    create = command(
        "create", store_commands.create, "Create a counter, or take over an existing one.",
        config.STORE, config.RUNWAY,
    )  # fmt: skip
    _add_create(create)
    listing = command("counters", store_commands.counters, "List the counters.", config.STORE)
    show = command("show", store_commands.show, SHOW, config.STORE, config.URL)
    take = command(
        "next",
        store_commands.next_ids,
        "Print the next id, or several, one per line.",
        config.STORE,
        config.URL,
    )
    take.add_argument("--count", metavar="N", help="how many (default: one)")
    take.add_argument("name", nargs="?", metavar="NAME", help="the counter (default: default)")
    show.add_argument("name", metavar="NAME", help="the counter")
    for sub in (listing, show):
        sub.add_argument("--json", action="store_true", help="print JSON")
    _add_changes(command)
    check = command("doctor", diagnose.doctor, DOCTOR, config.STORE)
    check.add_argument("--json", action="store_true", help="print JSON")
    health = command(
        "health", service_commands.health, "Exit 0 if a service runs here and answers.", config.URL
    )
    health.add_argument(
        "--ready", action="store_true", help="ask whether it can serve the next id, too"
    )
    command(
        "wait", service_commands.wait,
        "Wait until a service is ready; exit 1 if it is not in time.",
        config.URL, config.TIMEOUT,
    )  # fmt: skip
    _add_top(command("top", store_commands.top, TOP, config.URL, config.INTERVAL))
    _add_bench(command("bench", store_commands.bench, BENCH, *config.BENCH))
    return parser


def _add(parser: argparse.ArgumentParser, setting: config.Setting) -> None:
    """A flag of a setting; the variable and the default are filled in after parsing."""
    text = f"{setting.help} [{setting.variable}]".replace("%", "%%")
    if not setting.value:
        parser.add_argument(setting.flag, action="store_true", default=None, help=text)
    else:
        action = "append" if setting.many else "store"
        parser.add_argument(setting.flag, action=action, metavar=setting.value, help=text)


def _fill_in(parsed: argparse.Namespace) -> None:
    """Flag, else variable, else default. Raises Usage."""
    for setting in parsed.settings:
        given = getattr(parsed, setting.name)
        if given is None:
            value = config.from_environment(setting, os.environ)
        elif setting.many:
            value = [config.parsed(setting, part, setting.flag) for part in given]
        else:
            value = given if given is True else config.parsed(setting, given, setting.flag)
        setattr(parsed, setting.name, value)
        # Whether it was said at all matters where a default gives way to the counter's own.
        setattr(parsed, f"{setting.name}_said", given is not None)


def _add_changes(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that change a counter in use."""
    for name, run, text in (
        ("set", change_commands.set_next, "Go on from another id."),
        ("suspend", change_commands.suspend, "Hand out nothing of a counter until it is resumed."),
        ("resume", change_commands.resume, "End a suspension."),
        ("reshard", change_commands.reshard, "Give a counter in use another number of shards."),
        ("delete", change_commands.delete, "Delete a counter; its ids are not used again."),
        (
            "fence",
            change_commands.fence,
            "Go on above every id that may be in use, after a restore.",
        ),
        (
            "move",
            change_commands.move,
            "Take a counter to another store; its ids go on there, above.",
        ),
        ("adopt", change_commands.adopt, "End an adoption: the old endpoint can count no more."),
    ):
        sub = command(name, run, text, config.STORE, config.RUNWAY)
        add = sub.add_argument
        if name == "fence":
            add("name", metavar="NAME", nargs="?", help="the counter")
            add("--all", action="store_true", help="every counter, and the store's identity")
            add("--past", metavar="N", help="the highest id that may be in use")
            add("--ahead", metavar="N", help="how far beyond what the store knows of")
        else:
            add("name", metavar="NAME", help="the counter")
        if name == "move":
            add("--to", metavar="URL", required=True, help="the store it goes to, initialised")
        if name == "adopt":
            add("--finish", action="store_true", help="switch the old endpoint off, for good")
        if name == "set":
            add("--next", metavar="N", required=True, help="the id to go on from")
            add("--allow-lower", action="store_true", help="even below ids in use: repeats them")
            add("--force", action="store_true", help="even over more than a million ids")
        if name == "reshard":
            add("--shards", metavar="N", required=True, help=SHARDS)
        add("--reason", metavar="TEXT", default="", help="why, for the log")


def _add_create(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="what the counter is called")
    add("--start", metavar="N", help="the first id (default 0)")
    add("--limit", metavar="N", help="the highest id (default 2^53 - 1)")
    add("--strict", action="store_true", help="one order over all instances; a write per batch")
    add("--shards", metavar="N", default="1", help=SHARDS)
    add("--adopt-table", metavar="T", help="take over the counter in this DynamoDB table")
    add("--adopt-key", metavar="A=V[,A=V]", help="the key of its item")
    add("--adopt-attribute", metavar="A", help="the attribute that holds its value")
    add(
        "--adopt-returns", choices=("old", "new"),
        help="whether its endpoint answers the value before the increment or after it",
    )  # fmt: skip


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="print it once and exit")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each look")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", metavar="URL", help="http://HOST:PORT[/PATH] or unix:PATH")
    parser.add_argument("--json", action="store_true", help="print JSON")


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
