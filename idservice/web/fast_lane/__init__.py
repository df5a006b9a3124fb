"""Answers most requests for ids without aiohttp, for a fifth of the CPU time.

Theory of operation. A connection of a listener for ids is a `connection.FastConnection` for all its
life. It cuts what arrives into requests, and finds out what each asks for:

    known, sent early         `arrival` answers it, before there is a connection
    the last request again    `connection` knows the target: the next id is written at once
    the same, other values    `template` recognises it: the same
    refused, another key      `question` recognises it: the key is judged
    a plain request           `parser` checks it, `responses` finds its target or its answer
    anything else             `handover` lets aiohttp answer it, and takes the connection back

A request that cannot be answered at once waits: for ids, for a counter to be loaded, for the
readiness of all workers, or for aiohttp. Later requests of the connection are kept until then, so
that answers have the order of their requests.

`parser` never judges a request: one that it does not find plain goes to aiohttp. `responses` words
refusals and answers with the functions that aiohttp's handlers use (`web.problems`, `web.ids`). So
there is one wording for both ways.
"""
