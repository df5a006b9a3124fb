# invoices.py
import sqlite3

from idservice.client import Client

db = sqlite3.connect("invoices.db")
with db:  # as the application writes them
    db.execute("CREATE TABLE IF NOT EXISTS invoices (draft TEXT PRIMARY KEY, number INT, at TEXT)")
    for draft in ("draft-8d2f", "draft-77a0", "draft-c41e"):
        db.execute("INSERT OR IGNORE INTO invoices VALUES (?, NULL, NULL)", (draft,))

with Client("http://127.0.0.1:8080") as client:
    numbers = client.tally("invoices-2026")
    released = "SELECT draft FROM invoices WHERE number IS NULL ORDER BY rowid"
    for (draft,) in db.execute(released).fetchall():
        told = numbers.add(1, key=draft)  # the same draft has the same number, for ever
        # A crash here loses nothing: the next run is told the same number.
        with db:
            row = (int(told.sum), told.at.isoformat(), draft)
            db.execute("UPDATE invoices SET number = ?, at = ? WHERE draft = ?", row)

for number, draft in db.execute("SELECT number, draft FROM invoices ORDER BY number"):
    print(f"2026-{number:05}", draft)
