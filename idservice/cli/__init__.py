"""The command line.

Theory of operation: `commands` has the table of commands; `main` makes the parser of it. Once the
arguments are parsed, the module of the command is imported and its function runs. It returns an
exit code, or a coroutine that the event loop runs. `store_commands` open a store themselves, and
`change_commands` build on them and change a counter. `tally_commands` are those of sums, in the
store or over a service. A running service is asked for ids through `http_get`, without an HTTP
library. Tables and screens for a terminal are drawn with rich, which is imported
only there; output that is not a terminal is plain text.
"""
