"""One row of the table of commands, and the kinds of its arguments."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idservice import errors
from idservice.core.limits import ID_MAX
from idservice.server import settings as config

Argument = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Command:
    """One command; `run` is `module:function` in `idservice`. That returns an exit code or a
    coroutine."""

    run: str
    text: str
    settings: tuple[config.Setting, ...] = ()
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """A group of commands: they share their first word. `absent` has second words that users may
    try, and why there is no such command."""

    text: str
    absent: Mapping[str, str]


def takes(name: str, **options: Any) -> Argument:
    """Return an argument or a flag with the options with which argparse takes it."""
    return name, options


def number(flag: str, *, least: int = 0, most: int = ID_MAX, **options: Any) -> Argument:
    """Return a flag with a number, by default in the range of ids."""
    read = config.whole(least, most)

    def parse(value: str) -> int:
        try:
            return read(value)
        except ValueError as rule:
            raise errors.Usage(why=f"{flag} is {value!r}; it must be {rule}") from None

    return flag, {"metavar": "N", "type": parse, **options}


def rate(flag: str, **options: Any) -> Argument:
    """Return a flag with ids per second."""

    def parse(value: str) -> float:
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", value, re.ASCII):
            why = f"{flag} is {value!r}; it must be ids per second, as 100 or 0.5"
            raise errors.Usage(why=why)
        return float(value)

    return flag, {"metavar": "R", "type": parse, **options}
