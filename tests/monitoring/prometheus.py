"""A real Prometheus on a free port, with our own configuration and other targets."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import port_of
from tests.processes import ROOT, START_S, wait_until

FOLDER = ROOT / "deploy" / "monitoring"
SHOWS_KEY = "# authorization: "  # the comment becomes a line of the configuration


def tool(name: str) -> str:
    """Return the path of a program of Prometheus. Without it tests are skipped, but fail in CI."""
    path = shutil.which(name)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed (CI must not skip this)")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Prometheus:
    """A Prometheus that runs; its answers are JSON values."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        url = f"{self._url}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=START_S) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("api/v1/query", query=expression)["result"]
        return found

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=START_S):
                return True
        except OSError:
            return False


@contextmanager
def running(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `target` each second, in place of the target in our
    configuration, and shows an access key."""
    program = tool("prometheus")
    text = (FOLDER / "prometheus.yml").read_text()
    assert SHOWS_KEY in text
    configuration = yaml.safe_load(text.replace(SHOWS_KEY, SHOWS_KEY.removeprefix("# ")))
    authorization = configuration["scrape_configs"][0]["authorization"]
    authorization["credentials_file"] = Path(authorization["credentials_file"]).name
    (folder / authorization["credentials_file"]).write_text(key)
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for name in configuration["rule_files"]:
        shutil.copy(FOLDER / name, folder)
    process = subprocess.Popen(
        [
            program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
            "--web.listen-address=127.0.0.1:0", "--log.level=error",
        ],
        stdout=subprocess.DEVNULL, stderr=(log := (folder / "log").open("wb")),
    )  # fmt: skip
    try:
        wait_until(
            lambda: process.poll() is not None or port_of(process.pid) is not None,
            START_S, (folder / "log").read_text,
        )  # fmt: skip
        port = port_of(process.pid)
        assert port is not None, (folder / "log").read_text()
        one = Prometheus(port)
        wait_until(one.ready, START_S)
        yield one
    finally:
        process.kill()
        process.wait()
        log.close()
