"""Counts what a service does, and shows it.

Theory of operation. `readings` has the records: plain integers and frozen samples that cost nothing
on the path of an id. The allocation room counts into `CounterStats`, and makes a `CounterSample` of
each counter when it is asked. A `Snapshot` is all of them at one moment, and `ServiceView` is the
interface by which other rooms get it, for one process or for a pool of workers.

Each exporter turns a snapshot into one form: `prometheus` into the metrics page and `otel` into
OTLP, both by the table of `metrics`, `status` into JSON records (`status_records`) for the status
page and `top`, and `format` into words for people. `logs` writes log records, and limits those that
a client can cause. `loop_lag` and `store_health` watch the event loop and the store.
"""
