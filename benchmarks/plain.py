"""A plain aiohttp application with a router that counts up, to compare the service with.

Run as `python -m benchmarks.plain serve --listen HOST:PORT [--loop uvloop]`; further flags are
ignored. Without `--loop` it runs on asyncio's loop, which is the default of `web.run_app`.
"""

import argparse
from itertools import count

import uvloop
from aiohttp import web

HEADERS = {"Cache-Control": "no-store", "Server": "plain"}


def application() -> web.Application:
    """Return an application with the service's answers to `GET /next`, and its routes for ids."""
    ids = count()

    async def next_id(request: web.Request) -> web.Response:
        return web.Response(
            body=b"%d" % next(ids), content_type="text/plain", charset="utf-8", headers=HEADERS
        )

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ready", headers=HEADERS)

    app = web.Application()
    app.router.add_get("/next", next_id)
    app.router.add_get("/v1/counters/{name}/next", next_id)
    app.router.add_get("/livez", ready)
    app.router.add_get("/readyz", ready)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("--listen")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    told = parser.parse_known_args()[0]
    host, _, port = told.listen.rpartition(":")
    web.run_app(
        application(),
        host=host,
        port=int(port),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop() if told.loop == "uvloop" else None,
    )
