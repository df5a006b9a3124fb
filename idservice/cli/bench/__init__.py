"""The `bench` command: load on a running service, how long its answers take, and a check of every
id it gives."""
