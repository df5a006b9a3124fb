"""SQLite as a store: one file on a disk of this machine.

Theory of operation. `store` has the operations of `CatalogueStore`; each runs one of `transactions`
on the writer thread of `connection`. `examine` has the checks that `verify` and `doctor` share.
A transaction begins with BEGIN IMMEDIATE, so that no other process writes between its read and its
write. A failure before COMMIT proves that nothing was applied; a failure of COMMIT itself is
unknown, unless SQLite still has the transaction open and rolls it back. The rollback journal and
synchronous=EXTRA put an acknowledged write on the disk; both are read back when the file is opened.
Three things could make two processes count on different files. The identity records the file's
inode, so a copy is refused at the start. Each operation compares the path with the open file, so a
replaced file is refused at once. An open descriptor keeps the inode number from being used again.
"""
