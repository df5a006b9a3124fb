"""HTTP over a running service.

Theory of operation. `server` builds one aiohttp application a listener (`app`) and gives it three
things: the service that hands out ids, the catalogue that changes counters, and a view of all
workers. A handler reads its request strictly, asks one of them, and words the answer. It never
touches the store and never decides anything about an id.

    ids            requests for ids: `request` reads them, the service serves them, and they are
                   worded here
    counters       the control plane: routes on counters
    access         `ControlAccess`: which requests may read the control plane and change counters
    status_page    the status as a page and as JSON, from memory alone
    health         `/livez` and `/readyz`
    openapi        the document, generated from the records in `schemas`
    problems       surrounds every handler: an error becomes a problem (RFC 9457)
    connection     one client connection of aiohttp, and the limit on their number
    fast_lane      the connections of the listeners for ids, in front of aiohttp

A request for ids is worded by the same functions in the fast lane and in aiohttp, so that the two
give the same answer byte by byte.
"""
