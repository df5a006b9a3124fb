# donations_flask.py
from flask import Flask, request

from idservice.client import AddUnsettled, Client, KeyReused, OutOfBounds

client = Client("http://127.0.0.1:8080").open()
donations = client.tally("donations")
app = Flask(__name__)


@app.post("/payments/<payment>")
def paid(payment: str) -> tuple[dict[str, str], int]:
    """Called by the payment provider, again and again until the answer is 200."""
    try:
        told = donations.add(request.form["amount"], key=payment)
    except AddUnsettled:  # it may be counted or not; the next call has the same key
        return {"again": payment}, 503
    except OutOfBounds as full:  # final for this payment
        return {"refund": payment, "sum": str(full.sum)}, 200
    except KeyReused as reused:  # a mistake: two payments have one id
        return {"error": str(reused)}, 422
    return {"collected": told.amount_text, "sum": told.sum_text}, 200
