"""Several worker processes on the same sockets, kept alive by a supervisor.

Theory of operation
===================
The `supervisor` forks the workers and shares the bound sockets with them. Worker 0 starts first;
once it serves, the store can be used and the others start. `supervisor.TRANSITIONS` has the states
of a worker: DOWN, STARTING, SERVING, LEAVING, KILLED.

A socket pair joins the supervisor (`process.WorkerProcess`) to each worker (`link.SupervisorLink`).
Over it go `messages`. The supervisor asks for a report every five seconds, and kills a worker that
owes one for 30 seconds. A worker that is asked for metrics or readiness has only its own figures,
so it sends a CollectRequest. The supervisor collects a report of each worker, and `totals` adds
them up. `link.PoolView` hides this from the web layer.

At a stop, one worker at a time has the `turn` to give its unused ids back.

All workers accept from the same sockets. `accept_balance` is shared memory with the connection
count of each, so that connections spread evenly. `process.Signals` lets the supervisor, which has
no event loop, wait for signals as for messages. A worker that ends early is started again after a
pause. Its figures stay in the totals, and the ids it held in memory are counted as a gap.
"""
