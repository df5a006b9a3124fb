"""The tutorial, word by word: from `git clone` to a container and to two instances on one table.

No command is changed. The test adds what a machine of a test lacks:

* The address to clone leads here, to what is committed, by a line in git's configuration.
* `docker` is podman and buildah, as deploy/imagetest.sh sets them up. The base of the image is a
  Debian with its own Python, and the pip inside reaches its index as the one outside does. Their
  storage is empty, but for that base and for layers that were built before.
* Where `.ci/run` has put uv, pip is told where the files in the locks are. In an index it would
  read fifty thousand links to find them.
* pip compiles nothing that it installs. Python compiles what is imported: a sixth of it.
* As soon as all is built and installed, the network is one without a way out. Port 8080 is free
  there, and nothing answers that the page did not start.
"""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import engines
from tests.deploy.conftest import skipped_but_not_in_ci
from tests.deploy.kubelet import WORK, configured

from .pages import ROOT, Block, blocks
from .shell import ENGINE, NETWORK, Shell, why_no_machine

pytestmark = pytest.mark.process

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
CLONE, *LAPTOP = blocks(TUTORIAL, "On your machine")
BUILD, *CONTAINER = blocks(TUTORIAL, "In a container")
TABLE = [each for each in blocks(TUTORIAL, "Two instances on one table") if not each.not_run]
LOCKS = [ROOT / "requirements-build.lock", ROOT / "requirements.lock"]
UV = ROOT / ".venv" / "uv" / "bin" / "uv"
HERE = "idservice"  # the folder that git makes


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Shell]:
    """A shell in an empty folder, which knows nothing of the project around it."""
    missing = [tool for tool in ("git", "make", "curl") if not shutil.which(tool)]
    if missing or why_no_machine():
        skipped_but_not_in_ci(f"missing: {missing}, {why_no_machine()}")
    if not (ROOT / ".git").exists():
        skipped_but_not_in_ci("nobody can clone this")
    [address] = re.findall(r"^git clone (\S+)$", CLONE.text, re.MULTILINE)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "{ROOT}"]\ninsteadOf = {address}\n[safe]\ndirectory = *\n')
    # A make or git around the tests would hand its own arguments to the one inside.
    above = re.compile(r"GIT_.*|MAKE.*|MFLAGS|ARGS|VENV|VIRTUAL_ENV|PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not above.fullmatch(name)}
    yield Shell(tmp_path, {**kept, "GIT_CONFIG_GLOBAL": str(settings), "PIP_NO_COMPILE": "1"})
    shutil.rmtree(tmp_path)  # pytest would keep three


def where_packages_are(folder: Path) -> dict[str, str]:
    """Return what tells pip the addresses of the files in the locks. Nothing without uv."""
    if not UV.exists():
        return {}
    locked = subprocess.check_output(
        [UV, "pip", "compile", "--quiet", "--no-deps", "--format", "pylock.toml", *LOCKS], text=True
    )
    links = folder / "links.html"
    files = re.findall(r'url = "([^"]+/([^"/]+\.whl))"', locked)
    links.write_text("".join(f'<a href="{address}">{name}</a>\n' for address, name in files))
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}


def test_from_a_clone_to_two_instances(newcomer: Shell) -> None:
    newcomer.variables |= where_packages_are(newcomer.folder)
    newcomer.run(f"{CLONE.text}make .venv/.run")
    newcomer.follow(LAPTOP, within=HERE)
    if missing := engines.why_no_dynoxide():
        skipped_but_not_in_ci(missing)
    (newcomer.folder / HERE / ".engines").symlink_to(ROOT / ".engines")
    newcomer.follow(TABLE, within=HERE)


def test_the_readme_starts_as_the_tutorial_does() -> None:
    tutorial = iter((each.kind, each.text) for each in blocks(TUTORIAL))
    start = [(each.kind, each.text) for each in blocks(README, "Start")]
    assert [kind for kind, _ in start] == ["sh", "sh", "console", "sh", "sh"]
    assert all(each in tutorial for each in start), "the same commands in the same order"


# --- the container --------------------------------------------------------------------------------


def graph(folder: Path) -> str:
    """Return the place of images, by the configuration in a folder."""
    return str(tomllib.loads((folder / "storage.conf").read_text())["storage"]["graphroot"])


@pytest.fixture
def _docker(newcomer: Shell) -> Iterator[None]:
    """`docker`, with nothing in its storage but the base and old layers, which it only reads."""
    if not (WORK / "bin" / "docker").exists() or not shutil.which("podman"):
        skipped_but_not_in_ci("there is nothing to build on: run deploy/imagetest.sh")
    mine = Path(tempfile.mkdtemp(prefix="walk", dir=WORK))
    for name in ("containers.conf", "storage.conf"):
        (mine / name).write_text((WORK / name).read_text().replace(str(WORK), str(mine)))
    with (mine / "storage.conf").open("a") as file:
        file.write(f'[storage.options]\nadditionalimagestores = ["{graph(WORK)}"]\n')
    path = f"{WORK / 'bin'}:{newcomer.variables['PATH']}"
    newcomer.variables |= {**configured(mine), "TMPDIR": str(mine), "PATH": path}
    yield
    newcomer.run(
        "docker rm --all --force --volumes --time 0 >&2\n"
        "buildah rm --all >&2\n"  # what a build that failed left mounted
        f"umount {graph(mine)}/overlay 2>/dev/null || true\n"
        f"rm --recursive {mine}\n"
    )


def last_line(said: str) -> str:
    """Return the last line that was said."""
    return said.rstrip("\n").rpartition("\n")[2]


def head() -> str:
    """Return the commit that a clone gets."""
    return subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip()


@pytest.mark.needs_image
@pytest.mark.usefixtures("_docker")
def test_from_a_clone_to_the_first_ids_of_a_container(newcomer: Shell) -> None:
    image = "docker images --quiet --no-trunc idservice:latest"
    assert newcomer.run(image) == ""
    commit = head()
    assert last_line(newcomer.run(f"{CLONE.text}git rev-parse HEAD")) == commit
    built = last_line(newcomer.run(f"{BUILD.text}{image}", within=HERE))
    asked = f"$ docker inspect --format 'sha256:{{{{.Image}}}}' ids\n{built}\n"
    which = Block(Path(__file__), 0, "", "console", asked, "")
    run, *rest = CONTAINER
    newcomer.follow([run, which, *rest], within=HERE, apart=NETWORK)
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    labelled = f"make image\ndocker image inspect --format '{label}' idservice:dev"
    said = last_line(newcomer.run(labelled, within=HERE))
    assert said == commit, "also an image out of old layers is labelled with its commit"


# --- the rest of the README -----------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, commands: str) -> Shell:
    """A shell that has the command `idservice`."""
    if missing := why_no_machine():
        skipped_but_not_in_ci(missing)
    shell = Shell(tmp_path)
    shell.variables["PATH"] = f"{commands}:{shell.variables['PATH']}".lstrip(":")
    return shell


@pytest.mark.xdist_group("guides")
def test_everyday_use(shell: Shell) -> None:
    serve = "service 127.0.0.1:8080 'idservice serve --store sqlite:idservice.db'"
    said = shell.follow(blocks(README, "Everyday use"), before=f"idservice init\n{serve}")
    assert "\n1000\n1001\n1002\n1003\n1004\n" in said


@pytest.mark.needs_engine
@pytest.mark.xdist_group("guides")
def test_on_dynamodb(shell: Shell) -> None:
    if missing := engines.why_no_dynoxide():
        skipped_but_not_in_ci(missing)
    ask = "curl http://127.0.0.1:8080/next"
    shell.follow(blocks(README, "On DynamoDB"), before=ENGINE, after=ask)


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_every_block_of_the_readme_is_run() -> None:
    run = {"Start", "Everyday use", "On DynamoDB"}
    assert {each.heading for each in blocks(README)} == run
    assert not [each.place for each in blocks(README) if each.not_run]
