"""The manifests are run for real, in containers, as Kubernetes runs pods: with access keys."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.processes import wait_until

from .conftest import Command, documents, skipped_but_not_in_ci
from .kubelet import IMAGE, Node, Pod
from .rules import of_kind
from .test_kubernetes import over

pytestmark = [
    pytest.mark.process,
    pytest.mark.needs_image,
    pytest.mark.needs_deployers,
    pytest.mark.xdist_group("pods"),
]

ENOUGH_S = 30.0
# In place of the example's own program: its first request is its first act and is not repeated,
# its last one is sent after it was asked to stop; every id it got is a line.
APPLICATION = """
import os, signal, sys
from idservice.client import Client, WaitedTooLong
from idservice.cli.http_get import ask

stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
status, first = ask(os.environ["IDS"], "/next", timeout=60)
print("first", status, flush=True)
print(first, flush=True)
with Client(os.environ["IDS"], timeout=60) as ids:
    while not stop:
        try:
            print(*ids.batch(25), sep="\\n", flush=True)
        except WaitedTooLong:
            print("waited", flush=True)
        signal.sigtimedwait([], 0.02)
status, last = ask(os.environ["IDS"], "/next", timeout=60)
print("last", status, flush=True)
print(last, flush=True)
"""


def pod_of(
    kubectl: Command, name: str, kind: str, components: Sequence[str] = ()
) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        over(Path(folder), name, *components)
        (workload,) = of_kind(documents(kubectl("kustomize", folder)), kind)
    return dict(workload["spec"]["template"]["spec"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    if os.geteuid() != 0 or not shutil.which("podman"):
        skipped_but_not_in_ci("podman and root are needed to run containers")
    node = Node(f"node{os.getpid()}", tmp_path_factory.mktemp("node"), {"idservice": "127.0.0.1"})
    if node.ended("image", "exists", IMAGE):
        skipped_but_not_in_ci(f"there is no image {IMAGE}: run deploy/imagetest.sh")
    with node:
        yield node


@pytest.fixture(scope="module")
def central(kubectl: Command, node: Node) -> Iterator[Pod]:
    """The service on SQLite, on a volume that was initialised before."""
    volume: Path = node.folder / "volume"
    volume.mkdir()
    init = Pod(node, "init", pod_of(kubectl, "sqlite/init", "Job"), {"idservice": volume})
    init.start()
    assert init.until_ended("init") == 0, init.logs("init")
    spec = pod_of(kubectl, "sqlite", "Deployment", ["keys"])
    pod = Pod(node, "central", spec, {"idservice": volume})
    pod.start()
    key = ("idservice", "key", "create", "--role", "use", "--scope", "default")
    (text,) = re.findall(
        r"^idk_use_\w+", node.podman("exec", pod.called("idservice"), *key), re.MULTILINE
    )
    secret(node).mkdir()
    (secret(node) / "key").write_text(text)
    yield pod
    pod.stop()
    assert pod.state("idservice")["ExitCode"] == 0, pod.logs("idservice")


def secret(node: Node) -> Path:
    """The folder of the secret with the access key."""
    return node.folder / "secret"


def example(kubectl: Command, node: Node, name: str, program: str = "") -> Pod:
    spec = pod_of(kubectl, "example", "Deployment", ["keys"])
    if program:
        spec["containers"][0]["args"] = [program]
    return Pod(node, name, spec, {"idservice-key": secret(node)})


def application(kubectl: Command, node: Node, name: str) -> Pod:
    return example(kubectl, node, name, APPLICATION)


def ids_of(lines: str) -> list[int]:
    return [int(line) for line in lines.splitlines() if line.isdigit()]


def more(pod: Pod, count: int) -> None:
    """Wait until the application was given so many more ids."""
    enough = len(ids_of(pod.logs("application"))) + count
    wait_until(
        lambda: len(ids_of(pod.logs("application"))) >= enough,
        ENOUGH_S,
        lambda: pod.logs("application")[-500:],
    )


def test_the_example_is_given_ids(kubectl: Command, node: Node, central: Pod) -> None:
    pod = example(kubectl, node, "example")
    pod.start()
    more(pod, 1)
    asked = (
        "from idservice.cli.http_get import ask;"
        "print(ask('http://idservice:8080', '/next', timeout=60))"
    )
    said = node.podman("exec", central.called("idservice"), "python", "-c", asked)
    assert "key_missing" in said, "nobody is given any without a key"
    pod.stop()
    assert pod.state("application")["ExitCode"] == 0
    assert pod.state("idservice")["ExitCode"] == 0


def test_a_sidecar_is_up_before_the_application_and_down_after_it(
    kubectl: Command, node: Node, central: Pod
) -> None:
    pod = application(kubectl, node, "order")
    pod.start()
    more(pod, 100)
    pod.stop()
    said = pod.logs("application")
    assert "first 200\n" in said, "the sidecar answered the very first request"
    assert "last 200\n" in said, "and one after the application was asked to stop"
    assert "waited" not in said
    first, second = pod.state("application"), pod.state("idservice")
    assert (first["ExitCode"], second["ExitCode"]) == (0, 0), pod.logs("idservice")
    assert second["StartedAt"] < first["StartedAt"] < first["FinishedAt"] < second["FinishedAt"]
    ids = ids_of(said)
    assert len(ids) == len(set(ids))


def test_sigkill_repeats_no_id(kubectl: Command, node: Node, central: Pod) -> None:
    one, other = (application(kubectl, node, name) for name in ("one", "other"))
    one.start()
    other.start()
    more(one, 100)
    one.kill("idservice")
    more(one, 100)
    central.kill("idservice")
    more(one, 100)
    more(other, 100)
    before = ids_of(one.logs("application"))
    one.kill("application")
    other.kill("idservice")
    more(one, 100)
    more(other, 100)
    one.stop()
    other.stop()
    ids = before + ids_of(one.logs("application")) + ids_of(other.logs("application"))
    assert len(ids) > 500
    assert len(ids) == len(set(ids))


def test_what_is_advised_in_a_container_can_be_run_there_as_it_stands(
    node: Node, central: Pod
) -> None:
    def inside(command: str) -> list[str]:
        """The arguments by which podman runs a command in the container."""
        return ["exec", central.called("idservice"), "sh", "-c", command]

    assert node.ended(*inside("idservice create few --limit 0 && idservice next few")) == 0
    for limit, asked in (("1", "idservice doctor"), ("2", "idservice next few --count 5")):
        said = node.podman(*inside(f"{asked} 2>&1; true"))
        (hint,) = set(re.findall(r"idservice configure few --limit N[^`\n]*", said))
        assert node.ended(*inside("idservice next few")) == 1
        assert node.ended(*inside(hint.replace(" N", f" {limit}"))) == 0
        assert node.ended(*inside("idservice next few")) == 0
