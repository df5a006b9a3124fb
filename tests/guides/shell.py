"""Runs the blocks of a page in a shell that has a network and processes of its own."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from shutil import which

from tests.engines import DYNOXIDE
from tests.processes import environment

from .pages import SERVICE, Block, looks_like

ENOUGH_S = 300.0
NETWORK = ("unshare", *(() if os.geteuid() == 0 else ("--map-root-user",)), "--net")
MACHINE = (*NETWORK, "--pid", "--fork", "--kill-child", "--mount-proc")
LISTEN = "127.0.0.1:8080"
# The last process of a page that listened at an address is stopped before the next one starts, as
# Ctrl-C does it: with its group, because `make` has the service below it. `set -m` makes the group.
# What services say comes last: a line in the midst of what a command prints would tear it.
BEGIN = r"""
ip link set lo up
declare -A listening
touch "$services"
trap 'cat "$services"' EXIT
service() {
  local address=$1 before=${listening[$1]:-}
  if [ -n "$before" ]; then
    kill -INT -- "-$before"
    wait "$before" || true
  fi
  set -m
  bash -c "$2" >>"$services" 2>&1 &
  set +m
  listening[$address]=$!
  until curl --silent --fail --insecure --output /dev/null "$address/readyz"; do
    kill -0 "${listening[$address]}"
    sleep 0.05
  done
}
"""
ENGINE = f"""
{DYNOXIDE} serve --host 127.0.0.1 --port 8000 &
export AWS_ENDPOINT_URL=http://127.0.0.1:8000
until {DYNOXIDE} healthcheck --host 127.0.0.1 --port 8000 >/dev/null 2>&1; do sleep 0.05; done
"""


@cache
def why_no_machine() -> str:
    """Return why no page can be followed here, mostly for want of a network of its own. Empty if
    pages can be followed."""
    if not which("curl"):
        return "curl is missing"
    try:
        made = subprocess.run([*MACHINE, "ip", "link", "set", "lo", "up"], capture_output=True)
    except FileNotFoundError as missing:
        return f"{missing.filename} is missing"
    return "" if made.returncode == 0 else f"no network of its own: {made.stderr.decode().strip()}"


class Shell:
    """A shell in a folder, which runs the commands of pages as they stand."""

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        """`variables` is the whole environment; by default it has the command `idservice`."""
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self.variables = environment({"PATH": path}) if variables is None else dict(variables)

    def follow(
        self,
        blocks: Sequence[Block],
        *,
        within: str = ".",
        before: str = "",
        after: str = "",
        apart: Sequence[str] = MACHINE,
    ) -> str:
        """Run blocks one after the other, and check the output that the page shows.

        Returns what the other commands said. `before` and `after` are commands of the test.
        """
        for each in blocks:
            if each.file_name:
                file = self.folder / within / each.file_name
                file.parent.mkdir(exist_ok=True)
                file.write_text(each.text)
        with tempfile.TemporaryDirectory() as printed:
            script = [f"services={printed}/services", BEGIN, before]
            script += [_script(each, Path(printed)) for each in blocks]
            said = self.run("\n".join([*script, after]), within=within, apart=apart)
            for block in blocks:
                for number, (command, expected) in enumerate(block.asked):
                    found = _printed(Path(printed), block, number).read_text().rstrip("\n")
                    assert looks_like(found, expected), (
                        f"{block.place}: {command}\nprinted {found!r}, not {expected!r}\n{said}"
                    )
        return said

    def run(self, script: str, *, within: str = ".", apart: Sequence[str] = ()) -> str:
        """Run a script of bash, in which every command must end well. Return all it said."""
        with subprocess.Popen(
            [*apart, "bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder / within, env=self.variables, start_new_session=True, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as shell:  # fmt: skip
            try:
                said, _ = shell.communicate(timeout=ENOUGH_S)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        assert shell.returncode == 0, f"exit {shell.returncode}\n{said}"
        return said


def _printed(folder: Path, block: Block, number: int) -> Path:
    return folder / f"{block.line}-{number}"


def _script(block: Block, printed: Path) -> str:
    """Return a block as the shell runs it: its output is kept, a service goes on meanwhile."""
    script = [f"printf '\\n--- {block.place}\\n'"]
    for number, command in enumerate(block.commands):
        if block.kind == "console":
            script.append(f"{{\n{command}\n}} >{_printed(printed, block, number)}")
        elif SERVICE.fullmatch(joined := command.replace("\\\n", " ").strip()):
            listen = re.search(r"--listen (\S+)", joined)
            script.append(f"service {listen[1] if listen else LISTEN} {shlex.quote(joined)}")
        else:
            script.append(f"{command}printf '\\n'")  # an id has no end of line
    return "\n".join(script)
