"""What a release is made of: versions that agree, a change log, a bill of materials, packages."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from idservice import __version__
from tests.processes import ROOT

pytestmark = [
    pytest.mark.skipif(
        not (ROOT / "CHANGELOG.md").exists(), reason="an installation without the project around it"
    ),
    pytest.mark.xdist_group("release"),
]
VERSION = re.compile(r"## \[([0-9]+)\.([0-9]+)\.([0-9]+)\] - ([0-9]{4}-[0-9]{2}-[0-9]{2})")
SECTIONS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
PIP_S = 300


def read(name: str) -> str:
    return (ROOT / name).read_text()


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]


# --- words ----------------------------------------------------------------------------------------


def test_the_version_is_the_same_wherever_it_stands() -> None:
    [label] = re.findall(r'org\.opencontainers\.image\.version="([^"]*)"', read("Dockerfile"))
    chart = re.findall(
        r"(?m)^(?:version|appVersion): (.*)$", read("deploy/helm/idservice/Chart.yaml")
    )
    assert len(chart) == 2
    assert {PROJECT["version"], label, *chart} == {__version__}


def test_the_image_says_of_itself_what_the_package_says() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\S+?)="([^"]*)"', read("Dockerfile")))
    assert labels == {
        "title": "idservice",
        "description": PROJECT["description"],
        "version": PROJECT["version"],
        "licenses": PROJECT["license"],
        "base.name": "${PYTHON_IMAGE}",
    }


RELEASE = ROOT / ".github/workflows/release.yml"


@pytest.mark.process
@pytest.mark.skipif(not RELEASE.exists(), reason="a source distribution has no workflows")
def test_the_workflow_releases_everything_signed_and_only_after_the_tests() -> None:
    """`make check` reads its grammar; here is what it brings out."""
    jobs = yaml.safe_load(RELEASE.read_text())["jobs"]
    tests = jobs.pop("test")["steps"]
    steps = {name: str(job["steps"]) for name, job in jobs.items()}
    assert {job["needs"] for job in jobs.values()} == {"test"}
    assert {"make check PYTHON=python", "make test PYTHON=python"} <= {
        step.get("run") for step in tests
    }
    for made in ("make dist sbom", "helm package deploy/helm/idservice", "helm push"):
        assert made in steps["packages"]
    for said in ("--platform linux/amd64,linux/arm64", "--provenance mode=max", "--sbom true"):
        assert said in steps["image"]
    for name in jobs:
        assert "actions/attest-build-provenance@" in steps[name]
    (check,) = [step["run"] for step in tests if "GITHUB_REF_NAME" in step.get("run", "")]
    for tag, code in ((f"v{__version__}", 0), ("v9.9.9", 1)):
        ran = subprocess.run(
            ["bash", "-c", check], cwd=ROOT, env=os.environ | {"GITHUB_REF_NAME": tag}, check=False
        )
        assert ran.returncode == code


def faults(changelog: str, version: str) -> Iterator[str]:
    """What is wrong with a change log in the form of Keep a Changelog."""
    _, *parts = re.split(r"(?m)^(?=## )", changelog)
    heads = [part.partition("\n")[0] for part in parts]
    if not heads or heads[0] != "## [Unreleased]":
        yield "it does not begin with [Unreleased]"
    released = [VERSION.fullmatch(head) for head in heads[1:]]
    numbers = [tuple(map(int, found.groups()[:3])) for found in released if found is not None]
    if None in released:
        yield "a heading is no version with a date"
    if numbers != sorted(set(numbers), reverse=True):
        yield "versions do not fall"
    dates = [found[4] for found in released if found is not None]
    if dates != sorted(dates, reverse=True):
        yield "dates do not fall"
    current = tuple(map(int, version.split(".")))
    if numbers and numbers[0] > current:
        yield "a version is told of that the package has not reached"
    if not parts or ("- " not in parts[0] and numbers[:1] != [current]):
        yield "the version of the package has neither a heading nor anything unreleased"
    for head, part in zip(heads, parts, strict=True):
        names = re.findall(r"(?m)^### (.*)$", part)
        if names != [name for name in SECTIONS if name in names]:
            yield f"{head} has sections of other names, in another order, or twice"
        for section in re.split(r"(?m)^### .*$", part)[1:]:
            lines = section.strip().splitlines()
            if not lines or not all(line.startswith(("- ", "  ")) for line in lines):
                yield f"{head} has a section that is no list"


GOOD = """# Changelog
## [Unreleased]
## [0.2.0] - 2026-02-01
### Added
- More,
  and more.
### Fixed
- A fault.
## [0.1.0] - 2026-01-01
### Added
- All.
"""


def test_the_change_log_is_kept() -> None:
    assert not list(faults(read("CHANGELOG.md"), __version__))


@pytest.mark.parametrize(
    ("good", "bad", "version"),
    [
        ("", "", "0.2.0"),
        ("## [Unreleased]\n", "", "0.2.0"),
        ("[0.2.0] - 2026-02-01", "[0.2.0]", "0.2.0"),
        ("[0.1.0] - 2026", "[0.3.0] - 2026", "0.3.0"),
        ("0.1.0] - 2026", "0.1.0] - 2027", "0.2.0"),
        ("", "", "0.1.0"),
        ("", "", "0.3.0"),
        ("### Fixed", "### Mended", "0.2.0"),
        ("### Fixed", "### Added", "0.2.0"),
        ("- A fault.", "A fault.", "0.2.0"),
        ("- A fault.\n", "", "0.2.0"),
    ],
)
def test_a_fault_in_a_change_log_is_seen(good: str, bad: str, version: str) -> None:
    found = list(faults(GOOD.replace(good, bad), version))
    assert bool(found) == (good != bad or version != "0.2.0"), found


# --- the bill of materials ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> str:
    made = subprocess.run(
        [sys.executable, ROOT / "deploy" / "sbom.py"], capture_output=True, text=True, check=True
    )
    return made.stdout


@pytest.mark.process
def test_the_bill_of_materials_keeps_to_its_schema(bill: str) -> None:
    check = JsonStrictValidator(SchemaVersion.V1_6).validate_str
    assert check(bill) is None
    assert check(bill.replace('"library"', '"book"')) is not None


@pytest.mark.process
def test_the_bill_of_materials_has_all_that_the_lock_pins_with_its_hashes(bill: str) -> None:
    parts = json.loads(bill)["components"]
    pinned = re.findall(r"(?m)^([a-z][^=\s]*)==([^\s;]+)", read("requirements.lock"))
    assert [(part["name"], part["version"]) for part in parts] == pinned
    hashes = [one["content"] for part in parts for one in part["externalReferences"][0]["hashes"]]
    assert hashes == re.findall(r"sha256:([0-9a-f]{64})", read("requirements.lock"))


@pytest.mark.process
def test_the_bill_of_materials_leads_from_the_project_to_every_part(bill: str) -> None:
    found = json.loads(bill)
    below = {one["ref"]: one["dependsOn"] for one in found["dependencies"]}
    root = found["metadata"]["component"]["bom-ref"]
    direct = {re.split(r"[^a-z0-9-]", wanted)[0] for wanted in PROJECT["dependencies"]}
    assert {ref.partition("/")[2].partition("@")[0] for ref in below[root]} == direct
    reached, ahead = {root}, [root]
    while ahead:
        ahead = [ref for one in ahead for ref in below[one] if ref not in reached]
        reached |= set(ahead)
    assert reached == {root, *(part["bom-ref"] for part in found["components"])}


def test_no_line_installs_the_other_project_that_is_called_idservice() -> None:
    """On the package index `idservice` is somebody else's."""
    read_by_users = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Dockerfile"]
    for folder, kind in (("docs", "*.md"), ("deploy", "*"), ("idservice", "*.py")):
        read_by_users += [path for path in (ROOT / folder).rglob(kind) if path.is_file()]
    wrong = re.compile(
        r"(install|add|require)[^\n]*[\s'\"]idservice(\[|==|>|['\"\s]*$)", re.MULTILINE
    )
    for path in read_by_users:
        text = path.read_text(errors="replace")
        installs = [line for line in text.splitlines() if "pip" in line or "uv " in line]
        assert not [line for line in installs if wrong.search(line)], path


# --- packages -------------------------------------------------------------------------------------


def run(*arguments: str | Path, cwd: Path, **more: str) -> str:
    """The output of one command that must end well, run where the project is not."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}
    ran = subprocess.run(
        list(map(str, arguments)), cwd=cwd, env=env, timeout=PIP_S, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist."""
    folder: Path = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.mark.process
def test_the_wheel_is_the_package_that_says_it_is_typed_and_no_more(
    packages: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(packages[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(f"idservice_blocks-{__version__}.dist-info/METADATA").decode()
    found = (path for path in (ROOT / "idservice").rglob("*") if path.is_file())
    assert names == {
        str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts
    }
    assert "idservice/py.typed" in names
    assert "License-Expression: Apache-2.0" in metadata
    assert "\nName: idservice-blocks\n" in metadata, "`idservice` is somebody else's on the index"


@pytest.mark.process
def test_the_sdist_has_what_its_tests_read_and_makes_the_same_wheel(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, sdist = packages
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=unpacked)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()
    tracked = run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    missing = [name for name in tracked if not (unpacked / name).exists()]
    assert not [name for name in missing if not name.startswith((".ci/", ".github/"))]


@pytest.mark.process
def test_the_wheel_runs_in_an_empty_environment(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, _ = packages
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    uv = ROOT / ".venv" / "uv" / "bin" / "uv"  # where it is: pip takes half a minute
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile")
    install = (uv, "pip", "install", "--quiet", "--python", python) if uv.exists() else pip
    run(*install, "--require-hashes", "-r", ROOT / "requirements.lock", cwd=tmp_path)
    run(*install, "--no-deps", "--no-index", wheel, cwd=tmp_path)
    idservice = tmp_path / "env" / "bin" / "idservice"
    assert run(idservice, "--version", cwd=tmp_path).startswith(f"idservice {__version__}")
    serving = subprocess.Popen(
        [idservice, "serve", "--listen", "127.0.0.1:0", "--log", "json"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        said = (json.loads(line) for line in serving.stdout)
        url = next(line for line in said if line["action"] == "listening")["message"].split()[1]
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"0"
        serving.terminate()
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()
        serving.stdout.close()
