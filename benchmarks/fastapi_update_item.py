"""A FastAPI application that takes each id from an item of DynamoDB, by one `UpdateItem`.

Run by uvicorn. The usual variables of the AWS SDK lead to the table that `TABLE` names.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aioboto3
from botocore.config import Config
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

CONNECTIONS = 64  # as many as there are requests at a time: with the SDK's ten they would queue
HEADERS = {"Cache-Control": "no-store"}
TABLE = os.environ["TABLE"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a client of the table open while the application runs."""
    config = Config(max_pool_connections=CONNECTIONS)
    async with aioboto3.Session().client("dynamodb", config=config) as app.state.dynamodb:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/next")
async def next_id() -> PlainTextResponse:
    """Return the next id."""
    found = await app.state.dynamodb.update_item(
        TableName=TABLE,
        Key={"pk": {"S": "last"}},
        UpdateExpression="ADD #last :one",
        ExpressionAttributeNames={"#last": "last"},
        ExpressionAttributeValues={":one": {"N": "1"}},
        ReturnValues="UPDATED_NEW",
    )
    return PlainTextResponse(found["Attributes"]["last"]["N"], headers=HEADERS)
