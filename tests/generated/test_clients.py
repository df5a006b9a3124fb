"""Clients that public generators make of the OpenAPI document compile, and call every operation.

Each language has a program that makes the same calls and writes the same lines.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idservice.web.openapi import document
from idservice.web.request import WebLimits
from tests.processes import ROOT, STORE, Serving

pytestmark = [pytest.mark.process, pytest.mark.needs_generators]

HERE = Path(__file__).parent
INSTALLED = ROOT / ".generators"
DOCUMENT = "openapi.json"
# Of several processors the virtual machine would use all, compile what runs for seconds only, and
# look through libraries that are known.
MACHINE = (
    "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
    "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote",
)  # fmt: skip
# What one generator is told of each client.
CODE_ONLY = dict.fromkeys(("apis", "models", "supportingFiles"), "") | dict.fromkeys(
    ("apiTests", "modelTests", "apiDocs", "modelDocs"), "false"
)
CLIENTS: dict[str, dict[str, Any]] = {
    "go": {
        "outputDir": "go/client",
        "additionalProperties": {"withGoMod": False, "packageName": "client"},
    },
    "java": {
        "outputDir": "java/client",
        "library": "native",
        "additionalProperties": {
            "openApiNullable": False, "useJakartaEe": True, "hideGenerationTimestamp": True
        },
    },
}  # fmt: skip
LINES = """\
livez live
readyz ready
metrics true
statusPage 200
docs 200
openapi 3.1.0
createCounter 1000 9007199254740991
getNextOfCounter 1000
getNextOfCounter 1001 1002 1003
postNextOfCounter 1004 1 5 n
listCounters default default
listCounters orders
showCounter active true 0
status 2
patchCounter suspended
refused 423 suspended false
patchCounter active
setCounter active
showCounter true
deleteCounter deleted
createCounter 9007199254740993
getNext 0
postNext 1
createTally 0.00 0.00
addToTally 12.50 12.50 false
addToTally 12.50 12.50 true
refused 409 out_of_bounds 12.50
showAdd counted 12.50
showSum 12.50
setSum 12.50 0.00
patchTally suspended 0.00
listTallies donations
deleteTally deleted
createKey use acme.* true
keyed 404 unknown_counter
refused 403 key_not_enough
listKeys active checkout
revokeKey revoked replaced
reportUsage acme.* 0
"""
NAMES = re.compile("(counters|tallies)/[^/]+")

Command = list[str]


def run(*command: str | Path, cwd: Path) -> str:
    """What a command writes; fails with all of it if the command fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout


def go(folder: Path) -> Command:
    shutil.copytree(HERE / "go", folder / "go", dirs_exist_ok=True)
    # Paths and what debuggers read are left out: so what Go compiled in an earlier run, in another
    # folder, is used again for as long as it is the same.
    run("go", "build", "-trimpath", "-ldflags=-w", "-o", "calls", ".", cwd=folder / "go")
    return ["go/calls"]


def java(folder: Path) -> Command:
    sources = (folder / "java" / "client" / "src" / "main" / "java").rglob("*.java")
    libraries = f"{INSTALLED}/java/*"
    run(
        "javac", "-nowarn", *(f"-J{flag}" for flag in MACHINE), "-d", "java/made",
        "-cp", libraries, HERE / "java" / "Calls.java", *sources, cwd=folder,
    )  # fmt: skip
    return ["java", *MACHINE, "-cp", f"java/made:{libraries}", "Calls"]


def typescript(folder: Path) -> Command:
    for name in ("calls.ts", "tsconfig.json", "package.json"):
        shutil.copy(HERE / "typescript" / name, folder)
    modules = INSTALLED / "typescript" / "node_modules"
    (folder / "node_modules").symlink_to(modules)
    run(
        modules / ".bin" / "openapi-typescript", DOCUMENT, "-o", "client.ts",
        "--default-non-nullable=false", cwd=folder,  # else a field with a default must be sent
    )  # fmt: skip
    # Node would optimise what runs for seconds only.
    run("node", "--no-opt", modules / "typescript" / "bin" / "tsc", "--project", ".", cwd=folder)
    return ["node", "calls.js"]


def python(folder: Path) -> Command:
    (folder / "config.yml").write_text("package_name_override: client\npost_hooks: []\n")
    run(
        Path(sys.executable).with_name("openapi-python-client"), "generate", "--path", DOCUMENT,
        "--config", "config.yml", "--meta", "none", "--output-path", "client", "--fail-on-warning",
        cwd=folder,
    )  # fmt: skip
    shutil.copy(HERE / "python" / "calls.py", folder)
    run(sys.executable, "-W", "error", "-m", "compileall", "-q", "client", cwd=folder)
    return [sys.executable, "calls.py"]


# How a client is made and compiled, and what `make generators` installs last for it.
LANGUAGES: dict[Callable[[Path], Command], Path] = {
    go: INSTALLED / "done",
    java: INSTALLED / "done",
    typescript: INSTALLED / "done",
    python: Path(sys.executable).with_name("openapi-python-client"),
}


@pytest.fixture(scope="module")
def made_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clients in Go and Java, each in a folder that no other row writes to: half
    of the work of their generator is its start."""
    folder = tmp_path_factory.mktemp("made")
    (folder / DOCUMENT).write_bytes(document(WebLimits()))
    for language, told in CLIENTS.items():
        told |= {"inputSpec": DOCUMENT, "generatorName": language, "globalProperties": CODE_ONLY}
        (folder / f"{language}.json").write_text(json.dumps(told))
    jar = Path(sysconfig.get_path("purelib")) / "openapi_generator_cli" / "openapi-generator.jar"
    files = [f"{language}.json" for language in CLIENTS]
    run("java", *MACHINE, "-jar", jar, "batch", "--fail-fast", "--threads", "1", *files, cwd=folder)
    return folder


@pytest.fixture
def work(
    language: Callable[[Path], Command], request: pytest.FixtureRequest, tmp_path: Path
) -> Path:
    """A folder with the document, and with the client where one generator makes several."""
    if not LANGUAGES[language].exists():
        if os.environ.get("CI") == "true":
            pytest.fail("the generators are not installed (CI must not skip this)")
        pytest.skip("the generators are not installed: run `make generators`")
    if language.__name__ in CLIENTS:
        folder: Path = request.getfixturevalue("made_by_one")
        return folder
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / DOCUMENT).write_bytes(document(WebLimits()))
    return folder


ROWS = [
    pytest.param(
        language, id=language.__name__,
        marks=[pytest.mark.xdist_group("one generator")] * (language.__name__ in CLIENTS),
    )
    for language in LANGUAGES
]  # fmt: skip


@pytest.mark.parametrize("language", ROWS)
def test_a_generated_client_compiles_and_calls_every_operation(
    language: Callable[[Path], Command], work: Path, folder: Path
) -> None:
    with Serving(folder, "--store", STORE, "--allow-changes", "--access-log") as serving:
        url = f"http://127.0.0.1:{serving.port}"
        with urllib.request.urlopen(f"{url}/openapi.json") as answer:
            served = answer.read()
        assert served == (work / DOCUMENT).read_bytes()
        assert run(*language(work), url, cwd=work) == LINES
        serving.terminate()
        assert serving.end() == 0
        asked = re.findall(r'([A-Z]+) (/[^ ?"]*)(?:\?\S*)? HTTP', serving.output)
    called = {(method, NAMES.sub(r"\1/{name}", path)) for method, path in asked}
    called = {(method, path.replace("adds/don-1", "adds/{key}")) for method, path in called}
    called = {(method, re.sub("keys/[^/]+", "keys/{id}", path)) for method, path in called}
    paths = json.loads(served)["paths"]
    assert called == {(method.upper(), path) for path, of in paths.items() for method in of}
