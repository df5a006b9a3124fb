"""A plain aiohttp application that adds to a sum by one transaction for each request, to compare
the service with. The record of the key is in the transaction, so each key counts once.

Run as `python -m benchmarks.plain_adds serve --listen HOST:PORT --table NAME`; further flags are
ignored. The usual variables of the AWS SDK lead to the table.
"""

import argparse
import json
import time
from decimal import Decimal

import aioboto3
import uvloop
from aiohttp import web
from botocore.config import Config

CONNECTIONS = 64
HEADERS = {"Cache-Control": "no-store", "Server": "plain"}


def application(table: str) -> web.Application:
    """Return an application that only adds: it does not read the new sum, which a transaction does
    not return."""
    app = web.Application()

    async def add(request: web.Request) -> web.Response:
        body, key = await request.json(), request.headers["Idempotency-Key"]
        amount = str(int(Decimal(body["amount"]) * 100))
        at = str(int(time.time() * 1000))
        await app["dynamodb"].transact_write_items(
            TransactItems=[
                {
                    "Update": {
                        "TableName": table,
                        "Key": {"pk": {"S": "sum"}},
                        "UpdateExpression": "ADD #sum :amount SET #at = :at",
                        "ExpressionAttributeNames": {"#sum": "sum", "#at": "at"},
                        "ExpressionAttributeValues": {":amount": {"N": amount}, ":at": {"N": at}},
                    }
                },
                {
                    "Put": {
                        "TableName": table,
                        "Item": {
                            "pk": {"S": f"add:{key}"}, "amount": {"N": amount}, "at": {"N": at}
                        },
                        "ConditionExpression": "attribute_not_exists(pk)",
                    }
                },
            ]
        )  # fmt: skip
        answer = {"key": key, "amount": body["amount"], "at": at}
        return web.Response(
            body=json.dumps(answer).encode(), content_type="application/json", headers=HEADERS
        )

    async def ready(request: web.Request) -> web.Response:
        return web.Response(text="ready", headers=HEADERS)

    async def connected(app: web.Application):  # type: ignore[no-untyped-def]
        config = Config(max_pool_connections=CONNECTIONS, retries={"max_attempts": 1})
        async with aioboto3.Session().client("dynamodb", config=config) as client:
            app["dynamodb"] = client
            yield

    app.cleanup_ctx.append(connected)
    app.router.add_post("/v1/tallies/{name}/add", add)
    app.router.add_get("/readyz", ready)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("--listen")
    parser.add_argument("--table")
    told = parser.parse_known_args()[0]
    host, _, port = told.listen.rpartition(":")
    web.run_app(
        application(told.table),
        host=host,
        port=int(port),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )
