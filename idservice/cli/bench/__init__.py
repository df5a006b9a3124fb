"""The command `bench`: load on a running service, its latencies, and a check of every id.

Theory of operation: `run` looks at the counter, then lets `load` send the requests of a `Plan` on
keep-alive connections, in a closed loop or at a fixed rate. An answer is read by `request` and goes
to the `results`. Its latency goes into a histogram, its ids to the checks of `verdict`, which keep
all ids of the run in intervals. `report` makes lines or JSON of it. A repeated id, a broken order
or an answer that cannot be read makes the run fail.
"""
