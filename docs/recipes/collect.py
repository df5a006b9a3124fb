# collect.py
import sqlite3

from idservice.client import Client, IdserviceError, OutOfBounds

db = sqlite3.connect("payments.db")
with db:  # as the application writes them
    db.execute("CREATE TABLE IF NOT EXISTS payments (id TEXT PRIMARY KEY, amount TEXT, state TEXT)")
    db.execute("INSERT OR IGNORE INTO payments VALUES ('pay-1', '20.00', 'paid')")
    db.execute("INSERT OR IGNORE INTO payments VALUES ('pay-2', '0.01', 'paid')")
    db.execute("INSERT OR IGNORE INTO payments VALUES ('pay-3', '999.00', 'paid')")

with Client("http://127.0.0.1:8080") as client:
    donations = client.tally("donations")
    due = db.execute("SELECT id, amount FROM payments WHERE state = 'paid' ORDER BY id").fetchall()
    for payment, amount in due:
        try:
            donations.add(amount, key=payment)
            state = "collected"
        except OutOfBounds:
            state = "to be refunded"
        except IdserviceError as error:  # such as AddUnsettled, or a suspended tally
            print(payment, error)
            continue  # the next run sends it again, with the same key
        with db:
            db.execute("UPDATE payments SET state = ? WHERE id = ?", (state, payment))
        print(payment, state)
    print("sum", donations.value().sum)
