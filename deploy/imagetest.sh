#!/bin/bash
# Builds the container image and puts it through its life as a hardened sidecar, without a container engine's
# daemon and without an image registry: it can run wherever there is root, a Debian mirror and a Python index.
#
#   usage:  deploy/imagetest.sh
#   needs:  apt-get install --no-install-recommends buildah podman runc mmdebstrap uidmap    (Debian 12 or later)
#   IMAGETEST_DIR  keeps the base image and the layers between runs, may be deleted (default /var/tmp/idservice-imagetest)
#
# The one thing it replaces is the base: in place of python:X.Y-slim-SUITE stands a minimal Debian of the same suite
# with its own Python X.Y. Whatever the Dockerfile does on top of the base is done and tested as it stands.
set -euo pipefail

project=$(realpath "$(dirname "$0")/..")
work=${IMAGETEST_DIR:-/var/tmp/idservice-imagetest}
image=localhost/idservice:imagetest

say() { printf '%4ds  %s\n' "$SECONDS" "$*"; }
die() { say "FAILED: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run as root: it makes a root file system and network namespaces"
for tool in buildah podman runc mmdebstrap newuidmap; do
  command -v $tool >/dev/null || die "$tool is missing: apt-get install buildah podman runc mmdebstrap uidmap"
done

# --- A container storage of our own, so that nothing the user has in podman is seen or touched. -----------------------

mkdir -p "$work/tmp"; chmod 700 "$work"
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf TMPDIR=$work/tmp
# runc and cgroupfs, because crun refuses hybrid cgroups and there may be no systemd. Low ulimits, because raising
# one takes CAP_SYS_RESOURCE, which is often missing where this script itself runs in a container.
cat > "$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "$work/run/libpod"
END
# vfs copies whole layers, ten times slower, and works on every file system.
for driver in overlay vfs; do
  printf '[storage]\ndriver = "%s"\nrunroot = "%s/run"\ngraphroot = "%s/graph-%s"\n' \
    $driver "$work" "$work" $driver > "$CONTAINERS_STORAGE_CONF"
  buildah info >/dev/null 2>&1 && break
done

cleanup() {
  podman rm --force --volumes --time 0 sidecar
  podman volume rm --force ids
  buildah rm --all
  umount "$work/graph-$driver/overlay" # or the directory could not be deleted afterwards
}
trap 'cleanup >/dev/null 2>&1 || true' EXIT
cleanup >/dev/null 2>&1 || true # what an interrupted run left

# --- The base ---------------------------------------------------------------------------------------------------------

tag=$(sed -nE 's/^ARG PYTHON_IMAGE=python://p' "$project/Dockerfile")
[[ $tag =~ ^(3\.[0-9]+)-slim-([a-z]+)(@.*)?$ ]] || die "Dockerfile: no line ARG PYTHON_IMAGE=python:X.Y-slim-SUITE"
version=${BASH_REMATCH[1]} suite=${BASH_REMATCH[2]}
base=localhost/python:$version-slim-$suite

if ! podman image exists "$base"; then
  # The mirror this machine uses; mmdebstrap knows the public one if that is not Debian's.
  # shellcheck disable=SC2016 # apt's own placeholder
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' Origin:\ Debian Label:\ Debian | sed -n 1p)
  mmdebstrap --quiet --mode=root --variant=minbase --include=ca-certificates,netbase,tzdata,python-is-python3,python3-venv \
    "$suite" - ${mirror:+"$mirror"} | podman import --quiet - "$base" >/dev/null || die "no base image"
fi
podman run --rm --network none "$base" python -c "import sys; assert sys.version.startswith('$version.'), sys.version" \
  || die "Debian $suite has another Python than $version"
say "base: Debian $suite with Python $version stands in for python:$tag"

# --- The build, as the Dockerfile says --------------------------------------------------------------------------------

# Where this machine's pip has been told how to reach its index, the pip in the build is told the same, from outside:
# a file and the certificates are mounted, so that neither an address nor a certificate gets into a layer.
{ python3 -m pip config list 2>/dev/null || true; } | python3 -c '
import ast, sys
carried = {"index-url", "extra-index-url", "cert", "proxy", "timeout", "default-timeout", "retries", "trusted-host"}
rows = [line.rstrip("\n").split("=", 1) for line in sys.stdin]
rows.sort(key=lambda row: row[0].startswith(":env:"))  # the environment last: it wins over files
found = {key.rsplit(".", 1)[1]: ast.literal_eval(value) for key, value in rows}
print("[global]")
print("\n".join(f"{key} = {value}" for key, value in found.items() if key in carried))
' > "$work/pip.conf"

# The commands of docker, for this build and for the test that follows the tutorial (tests/guides/test_start.py).
mkdir -p "$work/bin"
cat > "$work/bin/docker" <<END
#!/bin/sh
[ "\$1" = build ] || exec podman "\$@"
shift
exec buildah build --isolation chroot --pull=never --format docker --layers --build-arg PYTHON_IMAGE="$base" \\
  --volume "$work/pip.conf:/etc/pip.conf:ro" --volume /etc/ssl/certs:/etc/ssl/certs:ro "\$@"
END
chmod +x "$work/bin/docker"

"$work/bin/docker" build --quiet --tag $image "$project" >"$work/build.log" 2>&1 || { tail -30 "$work/build.log"; die "build"; }
megabytes() { podman image inspect --format '{{.Size}}' "$1" | awk '{printf "%.0f", $1 / 1e6}'; }
added=$(($(megabytes $image) - $(megabytes "$base")))
say "built: $added MB on top of $(megabytes "$base") MB of the base"
[ "$added" -le 60 ] || die "it adds $added MB to its base, and 60 are promised"

label() { podman image inspect --format "{{index .Labels \"org.opencontainers.image.$1\"}}" $image; }
[ "$(label version)" = "$(sed -n 's/^version = "\(.*\)"$/\1/p' "$project/pyproject.toml")" ] || die "labelled $(label version)"
say "labelled: $(label title) $(label version) on $(label base.name)"

# --- Its life as a sidecar --------------------------------------------------------------------------------------------

# No network but the loopback of its own namespace, which other containers of the pod share: no port of this machine
# is touched. No tmpfs either: whatever it writes outside the volume is an error.
hardened=(--network none --read-only --read-only-tmpfs=false --cap-drop=all --security-opt no-new-privileges
  --memory 128m --memory-swap 128m --volume ids:/var/lib/idservice)

start() {
  podman run --detach --name sidecar "${hardened[@]}" $image >/dev/null 2>"$work/run.log" \
    || { cat "$work/run.log"; die "does not start"; }
  for _ in {1..100}; do
    if podman healthcheck run sidecar >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  podman logs sidecar | tail -20
  die "its HEALTHCHECK was never true"
}

# From a neighbour's place: another container in the same network namespace, as an application in the same pod.
take() {
  podman run --rm --network container:sidecar --no-healthcheck --entrypoint python $image -c "
from urllib.request import urlopen
assert urlopen('http://127.0.0.1:8080/readyz').status == 200
for _ in range($1):
    answer = urlopen('http://127.0.0.1:8080/next')
    body = answer.read().decode('ascii')
    assert body.isdigit(), body
    assert answer.headers['Cache-Control'] == 'no-store', answer.headers
    print(body)
"
}

# Nothing again, and nothing below what was there: with one instance ids rise over every restart.
rising() { sort --numeric-sort --unique --check=quiet "$work/ids" || { paste -sd' ' "$work/ids"; die "$1"; }; }

podman run --rm "${hardened[@]}" --no-healthcheck --entrypoint python $image -W error -c "
from botocore.session import Session
for service in ('dynamodb', 'sts', 'sso', 'sso-oidc'):
    Session().create_client(service, 'eu-central-1', aws_access_key_id='x', aws_secret_access_key='x')
" || die "the AWS library lacks a service it is used with"

say "version: $(podman run --rm "${hardened[@]}" --no-healthcheck $image --version)"

start
say "healthy, read-only, without capabilities, in 128 MiB"
podman exec sidecar sh -ec '
  expect() { "$@" || { echo "not so: $*"; exit 1; }; }
  expect [ "$(id -u)" = 10001 ]
  expect [ "$(stat -c %u:%a /var/lib/idservice)" = 10001:700 ]
  expect grep -q idservice /proc/1/cmdline
  expect grep -qE "^CapEff:\s0+$" /proc/1/status
  expect grep -qE "^NoNewPrivs:\s1$" /proc/1/status
  expect grep -qE "^Seccomp:\s2$" /proc/1/status
  ! touch /x 2>/dev/null || { echo "not so: / is read-only"; exit 1; }
  test -n "$(find /opt/idservice -path "*/idservice/__pycache__/*.pyc" -print -quit)" || { echo "not byte-compiled"; exit 1; }
' || die "not locked down"
say "locked down: user 10001, no write to /, PID 1 is idservice, seccomp on, byte-compiled"

take 5 > "$work/ids" || die "no ids for a neighbour"
say "a neighbour read /readyz and took $(paste -sd' ' "$work/ids"); peak memory" \
  "$(podman exec sidecar awk '/VmHWM/ {printf "%.0f MB", $2 / 1e3}' /proc/1/status)"

begin=${EPOCHREALTIME/./}
podman stop --time 10 sidecar >/dev/null 2>&1
took=$(((${EPOCHREALTIME/./} - begin) / 1000))
code=$(podman inspect --format '{{.State.ExitCode}}' sidecar)
[ "$code" = 0 ] || { podman logs sidecar | tail -20; die "exit code $code after SIGTERM (137: it had to be killed)"; }
say "SIGTERM: exit 0 in $took ms"

podman rm sidecar >/dev/null 2>&1
start
take 5 >> "$work/ids" || die "no ids after the restart"
rising "an id came again, or fell, after a restart on the same volume"
say "a new container on the same volume went on: $(tail -5 "$work/ids" | paste -sd' ')"

podman kill --signal KILL sidecar >/dev/null
podman wait sidecar >/dev/null
podman rm sidecar >/dev/null 2>&1
start
take 5 >> "$work/ids" || die "no ids after the kill"
rising "an id came again, or fell, after SIGKILL on the same volume"
say "and after SIGKILL: $(tail -5 "$work/ids" | paste -sd' ')"

say "OK"
