# shop_celery.py
from pathlib import Path

from celery import Celery

from idservice.client import Client

ids = Client("http://127.0.0.1:8080", "orders").open()
# A broker in a folder, so that this runs without a server.
Path("queue").mkdir(exist_ok=True)
app = Celery("shop", broker="filesystem://", backend="file:///tmp")
app.conf.broker_transport_options = {
    "data_folder_in": "queue",
    "data_folder_out": "queue",
    "control_folder": "queue",
}


@app.task
def create_order() -> int:
    return ids.next_id()
