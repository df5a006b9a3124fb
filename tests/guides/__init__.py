"""The README, the tutorial and the how-to pages, followed command by command.

`pages` reads the commands of a page, `shell` runs them as they stand on a machine of their own: a
network where every port is free and nothing else answers. A block that cannot be run here has a
comment before it that says why, and `test_guides` lists every such block.
"""
