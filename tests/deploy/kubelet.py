"""A node's agent in small: starts and stops a rendered pod's containers for real, in its order.

It takes from the manifest what decides whether a pod works: images, arguments, environment, users
and groups, capabilities, memory, volumes and who owns them, probes, grace. Containers of all pods
share one network that has nothing but loopback. For tests that are marked `pytest.mark.process`.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.processes import wait_until

from .rules import Object, containers, environment, is_sidecar

WORK = Path(os.environ.get("IMAGETEST_DIR", "/var/tmp/idservice-imagetest"))
IMAGE = "localhost/idservice:imagetest"  # which deploy/imagetest.sh builds
WITHOUT_PROBES = ["--no-healthcheck", "--pull=never"]


def configured(folder: Path) -> dict[str, str]:
    """What makes podman and buildah read the configuration that is in a folder."""
    names = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    return {variable: str(folder / name) for variable, name in names.items()}


class Node:
    """Where pods run: podman with the storage of deploy/imagetest.sh, a network, a hosts file."""

    def __init__(self, name: str, folder: Path, hosts: Mapping[str, str]) -> None:
        self.name = name
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.write_text("".join(f"{hosts[name]} {name}\n" for name in hosts))

    def __enter__(self) -> Self:
        keep = ["--entrypoint", "sleep", IMAGE, "900"]
        self.podman(
            "run", "--detach", "--name", self.name, "--network", "none", *WITHOUT_PROBES, *keep
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.podman("rm", "--force", "--volumes", "--time", "0", "--depend", self.name)

    def podman(self, *arguments: str) -> str:
        """What podman printed."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"podman {arguments}: {done.stdout}"
        return done.stdout

    def ended(self, *arguments: str) -> int:
        """podman's exit code."""
        return self._run(*arguments).returncode

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments], env={**os.environ, **configured(WORK)}, text=True, timeout=90,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip


class Pod:
    """The containers of one pod; `claims` says which folder stands for which volume claim or
    secret."""

    def __init__(self, node: Node, name: str, spec: Object, claims: Mapping[str, Path]) -> None:
        self.node = node
        self.name = name
        self.spec = spec
        self._claims = claims
        self._folders = {volume["name"]: self._folder(volume) for volume in spec.get("volumes", [])}
        self._runs: dict[str, int] = {}

    # --- a life in order --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the containers one after the other, each sidecar when the one before is up."""
        for container in self.spec.get("initContainers", []):
            self.run(container)
            assert is_sidecar(self.spec, container), "others are not needed here"
            self.until_started(container)
        for container in self.spec["containers"]:
            self.run(container)
            self.until_started(container)

    def stop(self) -> None:
        """SIGTERM to the containers, then to the sidecars from the last to the first; SIGKILL where
        the grace is over, which is one for all."""
        end = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", 30)
        sidecars = reversed(self.spec.get("initContainers", []))
        for container in [*self.spec["containers"], *sidecars]:
            left = max(2, round(end - time.monotonic()))
            self.node.podman("stop", "--time", str(left), self.called(container["name"]))

    def until_ended(self, name: str) -> int:
        """The exit code of a container, once it has ended by itself."""
        return int(self.node.podman("wait", self.called(name)).split()[-1])

    def kill(self, name: str) -> None:
        """SIGKILL to a container, and start it anew as a node does."""
        self.node.podman("kill", "--signal", "KILL", self.called(name))
        assert self.until_ended(name) == 137
        (container,) = [each for each in containers(self.spec) if each["name"] == name]
        self.run(container)
        self.until_started(container)

    # --- one container ----------------------------------------------------------------------------

    def called(self, name: str) -> str:
        """The name by which podman knows a container's latest run."""
        return f"{self.node.name}-{self.name}-{name}-{self._runs[name]}"

    def run(self, container: Object) -> None:
        """Start one container."""
        name = container["name"]
        self._runs[name] = self._runs.get(name, 0) + 1
        self._log(name).touch()
        command = container.get("command", [])
        entry = ["--entrypoint", json.dumps(command)] if command else []
        self.node.podman(
            "run", "--detach", "--name", self.called(name), *WITHOUT_PROBES,
            "--log-driver=k8s-file", f"--log-opt=path={self._log(name)}",
            "--network", f"container:{self.node.name}", f"--volume={self.node.hosts}:/etc/hosts:ro",
            *self._security(container), *self._mounts(container),
            *(f"--env={key}={value}" for key, value in environment(container).items()),
            *entry, IMAGE, *container.get("args", []),
        )  # fmt: skip

    def until_started(self, container: Object) -> None:
        """Run the startup probe until it succeeds, for as long as it may take."""
        probe = container.get("startupProbe")
        if probe is None:
            return
        enough_s = probe["periodSeconds"] * probe["failureThreshold"]
        asked = probe.get("exec", {}).get("command")
        if asked is None:
            port = {each["name"]: each["containerPort"] for each in container["ports"]}
            url = f"http://127.0.0.1:{port[probe['httpGet']['port']]}"
            asked = ["idservice", "health", "--url", url]
        name = container["name"]
        # Before it has said that it listens, a probe is in vain and costs 0.3 s of CPU.
        wait_until(
            lambda: '"action":"listening"' in self.logs(name), enough_s, lambda: self.logs(name)
        )
        probing = "exec", self.called(name), *asked
        wait_until(lambda: self.node.ended(*probing) == 0, enough_s, lambda: self.logs(name))

    def logs(self, name: str) -> str:
        """What a container wrote in its latest run."""
        # Lines of "TIME STREAM MARK TEXT"; the mark is P where the line went on later, else F.
        parts = [line.split(" ", 3) for line in self._log(name).read_text().splitlines()]
        return "".join(text + "\n" * (mark == "F") for _, _, mark, text in parts)

    def state(self, name: str) -> Mapping[str, Any]:
        """What podman knows about a container's latest run."""
        (found,) = json.loads(self.node.podman("inspect", self.called(name)))
        return dict(found["State"])

    # --- what the manifest asks for ---------------------------------------------------------------

    def _log(self, name: str) -> Path:
        return self.node.folder / f"{self.called(name)}.log"

    def _folder(self, volume: Object) -> Path:
        if "emptyDir" in volume:
            folder = self.node.folder / f"{self.name}-{volume['name']}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        elif "secret" in volume:
            folder = self._claims[volume["secret"]["secretName"]]
            folder.chmod(0o755)
            return folder
        else:
            folder = self._claims[volume["persistentVolumeClaim"]["claimName"]]
        group = self.spec.get("securityContext", {}).get("fsGroup")
        if group is not None:
            os.chown(folder, 0, group)
        folder.chmod(0o777 if "emptyDir" in volume else 0o755 if group is None else 0o2775)
        return folder

    def _mounts(self, container: Object) -> list[str]:
        return [
            f"--volume={self._folders[each['name']]}:{each['mountPath']}"
            + (":ro" if each.get("readOnly") else "")
            for each in container.get("volumeMounts", [])
        ]

    def _security(self, container: Object) -> list[str]:
        pod = self.spec.get("securityContext", {})
        own = {**pod, **container.get("securityContext", {})}
        groups = [*own.get("supplementalGroups", []), own.get("fsGroup", own["runAsGroup"])]
        flags = [f"--user={own['runAsUser']}:{own['runAsGroup']}"]
        flags += [f"--group-add={group}" for group in groups]
        flags += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
        if own["readOnlyRootFilesystem"]:
            flags += ["--read-only", "--read-only-tmpfs=false"]
        if not own["allowPrivilegeEscalation"]:
            flags += ["--security-opt=no-new-privileges"]
        memory = container["resources"]["limits"]["memory"].removesuffix("i").lower()
        return [*flags, f"--memory={memory}", f"--memory-swap={memory}"]
