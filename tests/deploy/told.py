"""What a container's environment and arguments tell the service, read as the service reads them."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idservice import errors
from idservice.cli import main
from idservice.server import settings
from idservice.server.listen_address import ADMIN_DEFAULT, Address


@dataclass(frozen=True, slots=True)
class Told:
    """The settings of `serve`, by name; what is wrong with them."""

    values: Mapping[str, Any]
    wrong: Sequence[str]

    @property
    def listens(self) -> list[Address]:
        """Every address that is listened on, that of metrics and counters included."""
        data = self.values["listen"]
        admin = self.values["admin_listen"]
        if admin is None and not all(address.is_local for address in data):
            admin = ADMIN_DEFAULT
        return [*data, *([admin] if admin else [])]

    @property
    def ports(self) -> set[int]:
        """The ports that others than this pod or task can reach."""
        return {address.port for address in self.listens if not address.is_local}

    @property
    def deaf(self) -> list[str]:
        """Addresses that an IPv6-only pod or task is not reached at."""
        return [str(address) for address in self.listens if address.host == "0.0.0.0"]

    @property
    def sockets(self) -> list[str]:
        """The paths of Unix sockets."""
        return [address.path for address in self.listens if address.path]


def told(environment: Mapping[str, str]) -> Told:
    """Read an environment."""
    wrong: list[str] = []
    values: dict[str, Any] = {}
    try:
        settings.check_environment(environment)
    except errors.Usage as error:
        wrong.append(str(error))
    for setting in settings.SERVE:
        values[setting.name] = setting.default
        try:
            values[setting.name] = settings.from_environment(setting, environment)
        except errors.Usage as error:
            wrong.append(str(error))
    return Told(values, wrong)


def misspoken(words: Sequence[str]) -> list[str]:
    """What is wrong with a command `idservice …`; nothing if it could be run."""
    if not words or words[0] != "idservice":
        return [f"{words} is no command of ours"]
    try:
        with contextlib.redirect_stdout(None):
            main._parser().parse_args(words[1:])
    except errors.Usage as error:
        return [str(error)]
    return []
