"""The README's first steps, word by word: from `git clone` to the first ids of `make run`, and to
those of a container that was built from the Dockerfile.

No command is changed. What a test machine lacks stands around them:

* the address to clone leads here, to what is committed, by a line in git's configuration;
* `docker` is podman and buildah, as deploy/imagetest.sh sets them up: the base of the image is a
  Debian with its own Python, and the pip inside is told how the one outside reaches its index.
  Their storage is empty, but for that base and for layers that were built before;
* once all is built and installed, the network is one with nothing else in it, not even a way out:
  port 8080 is free, and who answers there is who was started.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

from .conftest import skipped_but_not_in_ci
from .kubelet import WORK, configured

pytestmark = pytest.mark.process

START = (ROOT / "README.md").read_text().partition("\n## Start\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", START, re.MULTILINE | re.DOTALL)
CLONE, MAKE, BUILD, RUN, STOP = [block for kind, block in BLOCKS if kind == "sh"]
SERVE, TEST = MAKE.splitlines()
[ASK] = [block for kind, block in BLOCKS if kind == "console"]
ASKED = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", ASK, re.MULTILINE)
COMMANDS = [command for command, _ in ASKED]
PRINTED = [printed.rstrip("\n") for _, printed in ASKED]
[LATER] = re.findall(r"the next `docker run` goes on with (\d+)", START)

ENOUGH_S = 300.0
NETWORK = ("unshare", "--net")
PROCESSES = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
UP = "ip link set lo up\n"


def aloud(*commands: str) -> str:
    """Commands whose output is looked at."""
    return "".join(f"{command}\nprintf '\\0'\n" for command in commands)


def quietly(block: str) -> str:
    """Commands whose output is for who looks for a fault."""
    return f"{{\n{block}\n}} >&2\n"


class Newcomer:
    """Somebody at a shell, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [address] = re.findall(r"^git clone (\S+)$", CLONE, re.MULTILINE)
        settings = folder / "gitconfig"
        settings.write_text(f'[url "{ROOT}"]\ninsteadOf = {address}\n[safe]\ndirectory = *\n')
        # A make or git around the tests would hand its own arguments to the one inside.
        above = re.compile(r"GIT_.*|MAKE.*|MFLAGS|ARGS|VENV")
        kept = {name: value for name, value in os.environ.items() if not above.fullmatch(name)}
        self.environment = {**kept, "GIT_CONFIG_GLOBAL": str(settings)}

    def types(self, script: str, *, within: str = ".", apart: tuple[str, ...] = ()) -> list[str]:
        """What each command printed that was typed aloud; all end well. `apart` runs the shell."""
        words = [*apart, "bash", "-euo", "pipefail", "-c", script]
        with subprocess.Popen(
            words, cwd=self.folder / within, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as shell:  # fmt: skip
            try:
                printed, said = shell.communicate(timeout=ENOUGH_S)
            except BaseException:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        heard = printed.split("\0")
        assert shell.returncode == 0, "\n".join([script, *heard, said])
        return [each.rstrip("\n") for each in heard[:-1]]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    missing = [tool for tool in ("git", "make", "curl", "ip") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        skipped_but_not_in_ci(f"git, make, curl, ip and root are needed; missing: {missing}")
    if not (ROOT / ".git").exists():
        skipped_but_not_in_ci("nobody can clone this")
    yield Newcomer(tmp_path)
    shutil.rmtree(tmp_path)  # pytest would keep three


def graph(folder: Path) -> str:
    """Where images are, by the configuration in a folder."""
    return str(tomllib.loads((folder / "storage.conf").read_text())["storage"]["graphroot"])


@pytest.fixture
def _docker(newcomer: Newcomer) -> Iterator[None]:
    """`docker`, with nothing in its storage but the base and old layers, which it only reads."""
    if not (WORK / "bin" / "docker").exists():
        skipped_but_not_in_ci("there is nothing to build on: run deploy/imagetest.sh")
    mine = Path(tempfile.mkdtemp(prefix="walk", dir=WORK))
    for name in ("containers.conf", "storage.conf"):
        (mine / name).write_text((WORK / name).read_text().replace(str(WORK), str(mine)))
    with (mine / "storage.conf").open("a") as file:
        file.write(f'[storage.options]\nadditionalimagestores = ["{graph(WORK)}"]\n')
    path = f"{WORK / 'bin'}:{newcomer.environment['PATH']}"
    newcomer.environment |= {**configured(mine), "TMPDIR": str(mine), "PATH": path}
    yield
    newcomer.types(
        "docker rm --all --force --volumes --time 0 >&2\n"
        "buildah rm --all >&2\n"  # what a build that failed left mounted
        f"umount {graph(mine)}/overlay 2>/dev/null || true\n"
        f"rm --recursive {mine}\n"
    )


@pytest.mark.needs_image
@pytest.mark.usefixtures("_docker")
def test_from_a_clone_to_the_first_ids_of_a_container(newcomer: Newcomer) -> None:
    image = "docker images --quiet --no-trunc idservice:latest"
    before, head, built = newcomer.types(
        aloud(image) + quietly(CLONE + BUILD) + aloud("git rev-parse HEAD", image)
    )
    here = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True)
    assert (before, head) == ("", here.strip())
    which = "docker inspect --format 'sha256:{{.Image}}' ids"
    later = quietly(STOP + RUN) + aloud(COMMANDS[0])
    said = newcomer.types(UP + quietly(RUN) + aloud(*COMMANDS, which) + later, apart=NETWORK)
    assert said == [*PRINTED, built, LATER]


@pytest.mark.needs_image
@pytest.mark.usefixtures("_docker")
def test_an_image_out_of_old_layers_is_labelled_with_the_commit(newcomer: Newcomer) -> None:
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    labelled = f"docker image inspect --format '{label}' idservice:dev"
    head, said = newcomer.types(
        quietly(f"{CLONE}make image") + aloud("git rev-parse HEAD", labelled)
    )
    assert said == head


def test_from_a_clone_to_the_first_ids_of_make_run(newcomer: Newcomer) -> None:
    newcomer.types(quietly(f"{CLONE}make .venv/.run"))
    # Whatever was started ends with the shell, however that ends.
    serving = f"{{\n{SERVE}\n}} >&2 &\n.venv/bin/idservice wait >&2\n"
    said = newcomer.types(UP + serving + aloud(*COMMANDS), within="idservice", apart=PROCESSES)
    assert said == PRINTED


def test_every_block_of_the_start_is_run() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "sh", "console", "sh", "sh", "sh"]
    assert TEST.startswith("make test "), "which is what runs this"
    assert PRINTED[0] == "0"
