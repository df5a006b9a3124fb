"""HTTP over a running service.

Theory of operation. `server` builds one aiohttp application a listener (`app`) and gives it four
things: the service that hands out ids, the catalogue that changes counters, the tallies, and a view
of all workers. A handler reads its request strictly, asks one of them, and words the answer. It
never touches the store and never decides anything about an id or a sum.

    ids            requests for ids: `request` reads them, the service serves them, and they are
                   worded here
    counters       the control plane: routes on counters
    tallies        adds and sums, and the control plane of tallies; `tally_schemas` has their bodies
    usage          the report of usage; `usage_schemas` has its body
    json_body      a body of JSON as a record, read strictly
    access         `ControlAccess`: which requests may read the control plane and change counters
                   and tallies
    status_page    the status as a page and as JSON, from memory alone
    health         `/livez` and `/readyz`
    openapi        the document, generated from the records of bodies
    problems       surrounds every handler: an error becomes a problem (RFC 9457)
    connection     one client connection of aiohttp, and the limit on their number
    fast_lane      the connections of the listeners for ids, in front of aiohttp

A request for ids is worded by the same functions in the fast lane and in aiohttp, so that the two
give the same answer byte by byte. An add is answered by aiohttp, since it waits for the store; its
connection returns to the lane.
"""
