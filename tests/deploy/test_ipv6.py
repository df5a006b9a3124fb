"""What the manifests say, tried between machines without IPv4, and between machines with both."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.guides.shell import MACHINE, Shell, why_no_machine

from .conftest import DEPLOY, skipped_but_not_in_ci
from .rules import environment, of_kind, ours

pytestmark = [pytest.mark.process, pytest.mark.xdist_group("run-book")]  # as test_readme

# Two networks joined by a cable: the node's, where the script runs, and the pod's.
CABLE = """
unshare --net sleep 900 & pod=$!
until [ "$(readlink /proc/$pod/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
in_pod() { nsenter --net=/proc/$pod/ns/net "$@"; }
ip link add node type veth peer name eth0 netns $pod
ip -6 addr add fd00::1/64 dev node nodad; ip link set node up
ip link set lo up; in_pod ip link set lo up
in_pod ip -6 addr add fd00::2/64 dev eth0 nodad; in_pod ip link set eth0 up
"""
IPV6_ALONE = """
ip -4 addr flush dev lo; in_pod ip -4 addr flush dev lo
[ -z "$(ip -4 addr; in_pod ip -4 addr)" ] || exit 1
"""
BOTH = "ip addr add 10.0.0.1/24 dev node; in_pod ip addr add 10.0.0.2/24 dev eth0\n"
SERVICE = """
nsenter --net=/proc/$pod/ns/net idservice serve & service=$!
for url in URLS; do
  idservice wait --url "$url"
  until curl --silent --globoff --fail "$url/readyz" >/dev/null; do sleep 0.05; done
  printf 'next '; curl --silent --globoff --fail "$url/next"; echo
  curl --silent --globoff --fail "${url%8080}9090/metrics" | grep -m 1 '^idservice_workers '
done
in_pod idservice health
"""
CLIENTS = """
env -u IDSERVICE_ADMIN_LISTEN IDSERVICE_STORE=http://[fd00::2]:8080 \
  idservice serve --listen '[::1]:8081' &
idservice wait --url 'http://[::1]:8081'
printf 'next '; curl --silent --globoff --fail 'http://[::1]:8081/next'; echo
python - <<'END'
import asyncio
from idservice.client import AsyncClient, Client
client = Client("http://[fd00::2]:8080", timeout=30.0).open()
print("next", client.next_id())
async def main():
    async with AsyncClient("http://[fd00::2]:8080", timeout=30.0) as client:
        print("next", await client.next_id())
asyncio.run(main())
END
"""
STOP = "kill $service; wait $service\n"  # as a node stops it: it ends well


def manifests() -> Mapping[str, str]:
    (deployment,) = of_kind(
        [yaml.safe_load((DEPLOY / "kubernetes/base/deployment.yaml").read_text())], "Deployment"
    )
    return environment(ours(deployment["spec"]["template"]["spec"])[0])


@pytest.fixture
def shell(tmp_path: Path, idservice: Path) -> Shell:
    """A shell with the settings of the manifests, but for the store: there is no DynamoDB here."""
    if missing := why_no_machine() or ("" if shutil.which("nsenter") else "nsenter is missing"):
        skipped_but_not_in_ci(missing)
    cable = subprocess.run([*MACHINE, "bash", "-euc", CABLE], capture_output=True, text=True)
    if cable.returncode:
        skipped_but_not_in_ci(f"no network of two machines: {cable.stderr}")
    shell = Shell(tmp_path)
    if os.geteuid() == 0:  # or a fork may not enter a network
        shell.variables["PATH"] = f"{idservice}:{shell.variables['PATH']}"
    shell.variables |= manifests() | {"IDSERVICE_STORE": "sqlite:ids.db", "IDSERVICE_DRAIN": "0"}
    shell.run("env -u IDSERVICE_LISTEN idservice init")
    return shell


def given(said: str) -> list[int]:
    return [int(id) for id in re.findall(r"^next ([0-9]+)$", said, re.MULTILINE)]


def test_where_there_is_no_ipv4_ids_metrics_health_and_clients_work(shell: Shell) -> None:
    service = SERVICE.replace("URLS", "'http://[fd00::2]:8080'")
    said = shell.run(CABLE + IPV6_ALONE + service + CLIENTS + STOP, apart=MACHINE)
    assert len(set(given(said))) == 4


def test_where_there_are_both_the_service_is_reached_by_either(shell: Shell) -> None:
    service = SERVICE.replace("URLS", "'http://[fd00::2]:8080' http://10.0.0.2:8080")
    said = shell.run(CABLE + BOTH + service + STOP, apart=MACHINE)
    assert given(said) == [0, 1]
