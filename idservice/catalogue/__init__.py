"""The control plane: what a counter is, and how it changes.

Theory of operation. A counter has an entry in the catalogue of its store, and a position on each
shard. `counters` validates a configuration, creates a counter and words it as JSON. `changes` has a
class for each kind of change: it refuses what is not possible, and becomes an intent. `rules` says
what each step makes of the entry; both are pure. `changer` takes the steps on the store, by the
states of a change: intent, sealed, based, open, done. `mover` takes a counter to another store by
two changes, one in each; `in_time` bounds each call of the two, and `change_log` tells the log of
changes. `doctor` examines a whole store.

On an instance, `catalogue` lists, shows and creates counters, and carries changes out in tasks:
changes that were asked for here, and changes that another operator began and left. It knows nothing
of `allocation`: it calls `on_change` with each entry that it wrote, and `allocation` calls
`finish` for a change that stands still. The server connects the two. The commands use `changer`
and `mover` without an instance.
"""
