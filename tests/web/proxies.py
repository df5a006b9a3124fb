"""Proxies in front of a service: nginx, HAProxy and Caddy, on Unix sockets in a folder."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

START_S = 60.0  # on a machine under load
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 1024;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


def program(name: str) -> str:
    """Where a proxy is; without it the test is skipped, but not in CI."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not installed (CI must not skip this)")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def listens(path: Path) -> bool:
    """Whether somebody accepts connections there: the socket exists a little earlier."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@asynccontextmanager
async def nginx(folder: Path, servers: str, sockets: Iterable[str]) -> AsyncIterator[None]:
    """nginx with these servers in `folder`, once it listens."""
    text = NGINX.format(folder=folder, servers=servers)
    log = folder / "error.log"
    command = [program("nginx"), "-p", str(folder), "-e", str(log), "-c"]
    async with _running(command, folder / "nginx.conf", text, log, sockets):
        yield


@asynccontextmanager
async def haproxy(folder: Path, text: str, sockets: Iterable[str]) -> AsyncIterator[None]:
    """HAProxy with this configuration, once it listens."""
    command = [program("haproxy"), "-db", "-f"]
    async with _running(command, folder / "haproxy.cfg", text, folder / "log", sockets):
        yield


@asynccontextmanager
async def caddy(folder: Path, text: str, sockets: Iterable[str]) -> AsyncIterator[None]:
    """Caddy with this configuration, once it listens."""
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config"]
    async with _running(command, folder / "Caddyfile", text, folder / "log", sockets):
        yield


@asynccontextmanager
async def _running(
    command: list[str], file: Path, text: str, log: Path, sockets: Iterable[str]
) -> AsyncIterator[None]:
    file.write_text(text)
    home = {"HOME": str(file.parent), "XDG_DATA_HOME": str(file.parent)}
    with log.open("ab") as said:
        process = await asyncio.create_subprocess_exec(
            *command, str(file), env={**os.environ, **home}, stdout=said, stderr=said
        )
    try:
        async with asyncio.timeout(START_S):
            while not all(listens(file.parent / name) for name in sockets):
                assert process.returncode is None, log.read_text()
                await asyncio.to_thread(os.sched_yield)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


# --- each of them led to a service in the same ways -----------------------------------------------

FRONTS = ("tcp", "unix", "named", "passed")  # to an address, to a socket, with a Host, as asked


def nginx_as_it_is(folder: Path, port: int, unix: Path, guide: str) -> str:
    """Servers with nothing but what leads to the service, and with the lines of the guide."""
    tcp = f"http://127.0.0.1:{port}"
    locations = {
        "tcp": f"proxy_pass {tcp};",
        "unix": f"proxy_pass http://unix:{unix};",
        "named": f"proxy_pass {tcp}; proxy_set_header Host localhost;",
        "passed": f"proxy_pass http://unix:{unix}; proxy_set_header Host $http_host;",
    }
    servers = {name: f"location / {{ {does} }}" for name, does in locations.items()}
    servers["guide"] = guide.replace("http://127.0.0.1:8080", tcp)
    return "\n".join(
        f"server {{ listen unix:{folder}/{name}; {does} }}" for name, does in servers.items()
    )


def haproxy_as_it_is(folder: Path, port: int, unix: Path, guide: str) -> str:
    """The same of HAProxy, which passes Host as it came."""
    tcp = f"127.0.0.1:{port}"
    named = "http-request set-header Host localhost\n    "
    ways = {"tcp": ("", tcp), "unix": ("", unix), "named": (named, tcp), "passed": ("", unix)}
    listeners = (
        f"listen {name}\n    mode http\n    bind unix@{folder}/{name}\n    {more}server one {at}\n"
        for name, (more, at) in ways.items()
    )
    timeouts = "defaults\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n"
    ours = guide.replace("bind :80", f"bind unix@{folder}/guide").replace("127.0.0.1:8080", tcp)
    return timeouts + "\n".join(listeners) + ours


def caddy_as_it_is(folder: Path, port: int, unix: Path, guide: str) -> str:
    """The same of Caddy, which passes Host as it came."""
    tcp = f"127.0.0.1:{port}"
    ways = {
        "tcp": f"reverse_proxy {tcp}",
        "unix": f"reverse_proxy unix/{unix}",
        "named": f"reverse_proxy {tcp} {{\n        header_up Host localhost\n    }}",
        "passed": f"reverse_proxy unix/{unix}",
    }
    sites = (
        f"http://:{8001 + n} {{\n    bind unix/{folder}/{name}\n    {does}\n}}\n"
        for n, (name, does) in enumerate(ways.items())
    )
    ours = guide.replace("127.0.0.1:8080", tcp).replace(
        "ids.example.com {", f"http://:8000 {{\n    bind unix/{folder}/guide"
    )
    return "{\n    admin off\n}\n" + "".join(sites) + ours


Leads = Callable[[Path, int, Path, str], str]
PROXIES: Mapping[str, tuple[Callable[..., object], Leads]] = {
    "nginx": (nginx, nginx_as_it_is),
    "HAProxy": (haproxy, haproxy_as_it_is),
    "Caddy": (caddy, caddy_as_it_is),
}
