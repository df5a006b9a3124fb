"""The unit is one that systemd understands, runs with little privilege, and has the settings."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from idservice.server.exits import EXIT_USAGE
from idservice.server.workers.supervisor import STOP_S

from .conftest import DEPLOY, skipped_but_not_in_ci
from .told import misspoken, told

UNIT = (DEPLOY / "systemd" / "idservice.service").read_text()
USER = (DEPLOY / "systemd" / "idservice.conf").read_text()
SIDECAR = (DEPLOY / "systemd" / "sidecar.conf").read_text()
EXPOSURE_MAX = 15  # of 100, as systemd counts it; a service that says nothing has 96


def service() -> dict[str, str]:
    """Return the section Service. Of a key given twice the last one counts here."""
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    return dict(unit["Service"])


def analyze(folder: Path, verb: str, *more: str) -> str:
    """Return what systemd-analyze says of the unit as a sidecar has it, with this machine's command
    in it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        skipped_but_not_in_ci("systemd-analyze is not installed")
    assert program is not None
    command = Path(sys.executable).with_name("idservice")
    unit = folder / "idservice.service"
    unit.write_text(UNIT.replace("/opt/idservice/bin/idservice", str(command)))
    more_of_it = folder / "idservice.service.d"
    more_of_it.mkdir()
    (more_of_it / "sidecar.conf").write_text(SIDECAR)
    done = subprocess.run(
        [program, verb, *more, unit], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.process
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    assert analyze(tmp_path, "verify", "--man=no") == ""


@pytest.mark.process
def test_the_unit_exposes_little(tmp_path: Path) -> None:
    offline = ("--offline=true", "--no-pager", f"--threshold={EXPOSURE_MAX}")
    assert "Overall exposure level" in analyze(tmp_path, "security", *offline)


def test_the_unit_says_what_the_server_understands() -> None:
    found = service()
    words = found["ExecStart"].split()
    assert misspoken(["idservice", *words[1:]]) == []
    heard = told(dict([found["Environment"].split("=", 1)]))
    assert heard.wrong == []
    store = heard.values["store"]
    assert store == f"sqlite:/var/lib/{found['StateDirectory']}/idservice.db"
    assert f"init --store {store}`\n" in (DEPLOY / "README.md").read_text()
    assert not heard.values["init"], "a lost file must not start again from 0"
    assert float(found["TimeoutStopSec"]) > STOP_S
    assert found["RestartPreventExitStatus"] == str(EXIT_USAGE)


def test_a_sidecar_finds_its_access_key_where_systemd_puts_it() -> None:
    said = re.findall(r"^Environment=(\w+)=(.*)$", SIDECAR, re.MULTILINE)
    heard = told(dict(said))
    assert heard.wrong == []
    assert heard.values["store"].startswith("http://")
    (name,) = re.findall(r"^LoadCredential=([\w.]+):/etc/", SIDECAR, re.MULTILINE)
    assert heard.values["store_key_file"] == f"%d/{name}"  # %d: the folder of the credentials


def test_the_user_of_the_unit_is_the_one_that_is_made() -> None:
    (name, home) = re.findall(r'^u (\S+) - ".*" (\S+)$', USER, re.MULTILINE)[0]
    found = service()
    assert found["User"] == found["Group"] == name
    assert home == f"/var/lib/{found['StateDirectory']}"
