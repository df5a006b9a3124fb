"""A FastAPI application that takes each id from a sequence of PostgreSQL, by one `nextval`.

Run by uvicorn. `DATABASE_URL` leads to the database, and `CACHE` is how many ids each of its
sessions takes from the sequence at a time.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

HEADERS = {"Cache-Control": "no-store"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a pool of ten sessions, which is asyncpg's default."""
    # One statement leaves nothing to reset: without this, asyncpg sends another one after each.
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], reset=_nothing) as app.state.pool:
        await app.state.pool.execute(f"CREATE SEQUENCE ids CACHE {int(os.environ['CACHE'])}")
        yield


async def _nothing(session: asyncpg.Connection) -> None: ...


app = FastAPI(lifespan=lifespan)


@app.get("/next")
async def next_id() -> PlainTextResponse:
    """Return the next id."""
    id = await app.state.pool.fetchval("SELECT nextval('ids')")
    return PlainTextResponse(str(id), headers=HEADERS)
