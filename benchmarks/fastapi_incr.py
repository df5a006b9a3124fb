"""A FastAPI application that takes each id from Redis, by one `INCR`.

Run by uvicorn. `REDIS_URL` leads to Redis.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from redis.asyncio import Redis

HEADERS = {"Cache-Control": "no-store"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open as many connections as there are requests at a time, which is the client's default."""
    async with Redis.from_url(os.environ["REDIS_URL"]) as app.state.redis:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/next")
async def next_id() -> PlainTextResponse:
    """Return the next id."""
    return PlainTextResponse(str(await app.state.redis.incr("last")), headers=HEADERS)
