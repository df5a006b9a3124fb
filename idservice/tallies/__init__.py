"""Sums that are never lost and count each key once (T1 to T7 in `core.tally`).

Theory of operation. A tally is one row or item with a revision, and each add has a record of its
own under the caller's key. Both are written in one transaction. Nothing is held in memory but the
tally as it was last seen, so an instance may die at any moment.

`service` passes requests to `own`, or to another service. `own` has a `committer` for each tally in
use. Adds wait there while a commit is under way; then up to 99 of them are planned
(`core.tally.planned`) and committed together. A commit that was beaten is planned again from the
newest state with the same keys, and so is one without an answer: the records decide (T1). `turns`
leaves other instances a moment for their commits. `shared_read` lets requests that wait share the
next read. `changes` creates, changes and deletes tallies; `audit` compares a sum with its records.

Nothing here knows `allocation` or `catalogue`.
"""
