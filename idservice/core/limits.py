"""Bounds of names, numbers and messages, the same for clients, services and stores.

The limit of a counter is elsewhere: see `epoch`.
"""

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)  # of a counter or a tally
KEY = re.compile(r"[A-Za-z0-9._:~-]{1,128}", re.ASCII)  # of an add to a tally
ID_MAX = 2**63 - 2  # the position behind the highest id must still fit SQLite's integers
NUMBER_MAX = 2**53 - 1  # the highest integer that JavaScript keeps; higher ids are sent as strings
# A counter is created in one transaction, which on DynamoDB holds 100 writes: its entry, the
# catalogue's revision and its shards. More than 64 would be of no use: a new table takes fewer
# writes per second than they do.
SHARDS_MAX = 64
LINES_MAX = 5  # of more counters than this, messages give a sum instead of a line for each
