"""Bounds of names and numbers, the same for clients, services and stores.

The limit of a counter is elsewhere: see `epoch`.
"""

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)  # of a counter
ID_MAX = 2**63 - 2  # the position behind the highest id must still fit SQLite's integers
NUMBER_MAX = 2**53 - 1  # the highest integer that JavaScript keeps; higher ids are sent as strings
# A counter is created in one transaction, which on DynamoDB holds 100 writes: its entry, the
# catalogue's revision and its shards. 64 shards take more writes than a table does by default.
SHARDS_MAX = 64
