"""The data plane: ids of the counters in use on this instance.

Theory of operation. `service` has a `LocalCounter` for each counter in use, which it reads from the
store at the first use. A request takes the next id from memory: a `next()` on the cursor of the
counter's `IdBuffer`. If none is there, it waits in the `wait_queue`.

When memory runs low, `local_counter` starts its `refiller`. The allocator of `core` says how many
ids to request. The refiller sends the request and limits its time; `strict` does so in numbered
batches for a strict counter. Each request ends in an outcome. `local_counter` decides on it: it
shares the ids out, or enters another state of `local_state`. `position_check` asks the store why a
position is not as it was left. `epoch_state` has the last known entry and the allocator of its
epoch, and begins the next one.

`catalogue_watch` reads entries that changed, and stops serving if the catalogue is silent for too
long. At the end `shutdown` drops all ids and gives the unused ones back (`give_back`). `direct`
takes ids for a command, without any of this.

Nothing here knows `catalogue`: the server connects the two by callables.
"""
