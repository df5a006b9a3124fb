# shop_fastapi.py
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from idservice.client import AsyncClient

orders = AsyncClient("http://127.0.0.1:8080", "orders")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with orders:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def create_order() -> dict[str, int]:
    return {"order": await orders.next_id()}
