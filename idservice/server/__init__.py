"""Runs the service: settings, sockets, processes, start and stop.

Theory of operation
===================
`settings` holds one record per command; each field is a row with flag, variable, default and help.
`process.run` binds all sockets (`sockets`) before the store is opened, so that a port in use is an
error at once. With one process it calls `process.serve`; with several, the supervisor in `workers`
forks processes that each call it.

`process.serve` has five steps. `startup` reaches the store, and creates it if asked to. The
allocation service is entered, and `startup` reserves the first ids. A `listener` for each socket
accepts connections: the fast lane takes requests for ids, aiohttp all others. The process waits for
its `StopSwitch`. `shutdown.drain` then answers as not ready for a while, closes the sockets, and
finishes the requests in flight; the service returns its unused ids.

`exits` turns every end into an exit code: 0 clean, 1 failure, 2 bad usage, 3 store not usable.
`loop` picks the event loop and handles its signals; before that, `stop_signals` does. `settings`
and `exits` load no HTTP library: the commands `health` and `wait` use them every few seconds.
"""
