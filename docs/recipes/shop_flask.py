# shop_flask.py
from flask import Flask

from idservice.client import Client

orders = Client("http://127.0.0.1:8080", "orders").open()
app = Flask(__name__)


@app.post("/orders")
def create_order() -> dict[str, int]:
    return {"order": orders.next_id()}
