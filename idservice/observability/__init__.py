"""Counts what a service does, and shows it.

Theory of operation. `readings` has the records: plain integers and frozen samples that cost nothing
on the path of an id. The allocation room counts into `CounterStats`, and makes a `CounterSample` of
each counter when it is asked. A `Snapshot` is all of them at one moment, and `view` is the
interface by which other rooms get it, for one process or for a pool of workers.

Each exporter turns a snapshot into one form: `prometheus` into the metrics page, `otel` into OTLP,
`status` into JSON records (`status_records`) for the status page and `top`, and `format` into words
for people. `logs` writes log records, `sampled_log` limits those that a client can cause.
`loop_lag` and `store_health` watch the event loop and the store.
"""
