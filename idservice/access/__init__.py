"""The access keys of a store, the rights that each request has, and what instances handed out.

A tenant is a prefix of names: `acme.orders` belongs to `acme`. A key has one role and the scopes in
which it holds. These promises hold for every request; code and tests cite them by number.

K1  A request on a listener that asks is served only with a key that is valid, whose role is enough
    and whose scopes cover each name that it touches or shows.
K2  A key that is sent is judged on every listener.
K3  A revoked key is refused on every instance 3 s later, while the store answers; it opens nothing
    60 s after an instance last heard of the store.
K4  The secret of a key is in no store, log, error, metric or page: it is shown once.
K5  A refusal says nothing of what exists outside the scopes of a key.

Usage is in `usage` and `usage_report`; its promises, U1 to U4, are in `core.usage`.
"""
