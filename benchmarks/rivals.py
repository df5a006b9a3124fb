"""Other ways to count up over the network, as processes that are measured beside the service.

Each is configured to be fast for this: one core, keep-alive, no log, and the service's answer if it
can be chosen.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import LoadRun
from benchmarks.measure import check
from benchmarks.processes import ROOT, accepts, answers, free_port, process

FLOOR = ROOT / "benchmarks" / "floor.c"
GO = ROOT / "benchmarks" / "plain.go"
NGINX_MODULES = Path("/usr/lib/nginx/modules")
REDIS_REQUESTS = 20_000  # of redis-benchmark, for each second of a round


@dataclass(frozen=True, slots=True)
class Rival:
    """A running candidate: its port, the processes whose CPU counts, and the path that counts."""

    port: int
    pids: tuple[int, ...]
    path: str = "/next"


@dataclass(frozen=True, slots=True)
class Kind:
    """A candidate that may be started here: what it needs, and how it is started."""

    words: str
    needs: tuple[str | Path, ...]
    start: Callable[[Path, ExitStack], Rival]

    @property
    def missing(self) -> str:
        """Return the programs that are not installed."""
        absent = [
            str(need)
            for need in self.needs
            if not (need.exists() if isinstance(need, Path) else shutil.which(need))
        ]
        return f"{', '.join(absent)} not installed" if absent else ""


def floor(folder: Path, stack: ExitStack) -> Rival:
    """Compile and start the C program."""
    program, port = folder / "floor", free_port()
    subprocess.run(["cc", "-O2", "-o", str(program), str(FLOOR)], check=True)
    child = stack.enter_context(process([str(program), str(port)]))
    accepts(port, child)
    return Rival(port, (child.pid,))


def go(folder: Path, stack: ExitStack) -> Rival:
    """Compile and start the Go program, with one processor, since it has one core."""
    program, port = folder / "plain-go", free_port()
    subprocess.run(["go", "build", "-o", str(program), str(GO)], check=True, cwd=folder)
    child = stack.enter_context(process([str(program), str(port)], {"GOMAXPROCS": "1"}))
    accepts(port, child)
    return Rival(port, (child.pid,))


NGINX = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; server_tokens off;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  lua_shared_dict ids 1m;
  server {{
    listen 127.0.0.1:{port}{secure};
    location = /next {{
      default_type "text/plain; charset=utf-8";
      content_by_lua_block {{
        local body = string.format("%d", ngx.shared.ids:incr("last", 1, 0))
        ngx.header["Cache-Control"] = "no-store"
        ngx.header["Content-Length"] = #body
        ngx.print(body)
      }}
    }}
  }}
}}
"""


def nginx(folder: Path, stack: ExitStack, *, secure: str = "") -> Rival:
    """Start nginx with a counter in shared memory that Lua increments; `secure` configures TLS."""
    port = free_port()
    settings = folder / "nginx.conf"
    settings.write_text(
        NGINX.format(modules=NGINX_MODULES, folder=folder, port=port, secure=secure)
    )
    child = stack.enter_context(process(["nginx", "-p", str(folder), "-c", str(settings)]))
    accepts(port, child)
    return Rival(port, (child.pid,))


def redis(folder: Path, stack: ExitStack, *flags: str) -> Rival:
    """Start Redis, without persistence unless `flags` say otherwise."""
    port = free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", *flags]
    child = stack.enter_context(
        process(["redis-server", *settings, "--dir", str(folder), "--loglevel", "warning"])
    )
    accepts(port, child)
    return Rival(port, (child.pid,))


def webdis(folder: Path, stack: ExitStack) -> Rival:
    """Start webdis with one thread in front of another Redis; the CPU of both counts."""
    behind = redis(folder, stack)
    port = free_port()
    settings = folder / "webdis.json"
    settings.write_text(
        json.dumps(
            {
                "redis_host": "127.0.0.1",
                "redis_port": behind.port,
                "http_host": "127.0.0.1",
                "http_port": port,
                "threads": 1,
                "daemonize": False,
                "verbosity": 0,
                "logfile": str(folder / "webdis.log"),
            }
        )
    )
    child = stack.enter_context(process(["webdis", str(settings)]))
    answers(port, child)
    return Rival(port, (child.pid, *behind.pids), path="/INCR/last.txt")


KINDS = {
    "floor": Kind("C epoll loop, fixed answer", ("wrk", "cc"), floor),
    "nginx": Kind("nginx + Lua", ("wrk", "nginx", NGINX_MODULES / "ngx_http_lua_module.so"), nginx),
    "go": Kind("Go net/http", ("wrk", "go"), go),
    "webdis": Kind("webdis + Redis", ("wrk", "webdis", "redis-server"), webdis),
    "redis": Kind("Redis INCR by its own benchmark", ("redis-server", "redis-benchmark"), redis),
}


def redis_load(port: int, connections: int, seconds: float) -> LoadRun:
    """Run redis-benchmark, unpipelined, for about this number of seconds."""
    count = round(REDIS_REQUESTS * seconds)
    said = subprocess.run(
        ["redis-benchmark", "-p", str(port), "-c", str(connections), "-n", str(count), "-P", "1",
         "-q", "INCR", "last"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"INCR last: ([0-9.]+) requests per second", said)
    check(found is not None, said)
    assert found is not None
    return LoadRun(count, count / float(found[1]))
