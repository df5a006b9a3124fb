"""Reads the blocks of a Markdown page: commands, their output, and files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FENCE = "```"
NOT_RUN = re.compile(r"<!-- not run by the tests: (.+) -->")
FILE_NAME = re.compile(r"(?:#|//) ([\w./]+\.\w+)")
SERVICE = re.compile(r"(?:idservice serve|make run)\b.*(?<!&)")
ASKED = re.compile(r"^\$ (.*)\n((?:[^$\n].*\n)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `not_run` is the reason that the page gives for not running it."""

    page: Path
    line: int
    heading: str  # of the section, a line that begins with ##
    kind: str
    text: str
    not_run: str

    @property
    def place(self) -> str:
        """Return where the block stands, as an editor takes it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Return the commands, each with its continued lines."""
        if self.kind == "console":
            return [command for command, _ in self.asked]
        return re.findall(r"(?:.*\\\n)*.*\n", self.text) if self.kind == "sh" else []

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Return each command of a console block with what it prints."""
        return [(command, printed.rstrip("\n")) for command, printed in ASKED.findall(self.text)]

    @property
    def file_name(self) -> str:
        """Return the name under which a program is saved, which its first line says."""
        named = FILE_NAME.fullmatch(self.text.partition("\n")[0])
        return named[1] if named else ""


def blocks(page: Path, heading: str = "") -> list[Block]:
    """Return the blocks of a page, or those under one heading of it."""
    return [each for each in _read(page) if heading in ("", each.heading)]


def _read(page: Path) -> Iterator[Block]:
    heading = why = kind = ""
    begun, inside = 0, list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if begun and line != FENCE:
            inside.append(f"{line}\n")
        elif begun:
            yield Block(page, begun, heading, kind, "".join(inside), why)
            begun, inside, why = 0, [], ""
        elif line.startswith(FENCE):
            begun, kind = number, line.removeprefix(FENCE)
        elif line.startswith("## "):
            heading = line.removeprefix("## ")
        else:
            reason = NOT_RUN.fullmatch(line)
            assert not (why and line), f"{page}:{number}: the comment above is not before a block"
            why = reason[1] if reason else ""
    assert not begun, f"{page}:{begun}: a block without an end"


def looks_like(printed: str, expected: str) -> bool:
    """Return True if a command printed what a page says. `…` stands for any text."""
    pattern = ".*".join(map(re.escape, expected.split("…")))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None
