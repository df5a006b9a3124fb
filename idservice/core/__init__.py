"""Pure rules: no input or output, no clock, no randomness.

These invariants hold in every part of the project. Code and tests cite them by number.

I1   An id belongs to at most one block, and a block to at most one holder.
I2   A block enters memory only after the store acknowledged it, and is built only from the
     store's answer.
I3   A cursor only moves forward. A block's two edges travel together; neither is computed from
     the other (a full step subtracted from an end that a limit has clamped repeats ids).
I4   A reservation without a readable answer is burnt: its range is a gap, and a new one is asked
     for. What it got is never inferred from a later read. (A strict counter's batch is asked for
     again instead: its own number and nonce on the position tell what it got.)
I5   Ids go back once, and only from an instance that has forgotten them. First it drops the blocks,
     then it reads the position, then it sends one write, which holds only while epoch, revision and
     value are as read. No answer leads to another write: a refusal may answer a second copy of this
     one, and a value that stands where it stood may have been handed out and come back.
     What goes back to the position is the unused end of it, never a used id. Returned ranges are
     claimed under the revision at which they were seen; an unknown outcome burns them.
I6   A position is an index k. Shard s of S shards in an epoch with base b yields the id
     b + s + S*k; the limit is the highest id. A block belongs to one epoch; a grant of an epoch
     that is over is burnt. An epoch opens only after every shard of the one before is sealed, with
     a base above every id they granted, except ids that were given back (I5). A lower ordinal is
     ignored.
I7   Every transport error means "unknown", a library's "could not connect" included (applied
     writes are reported so), and so does a success without well-formed contents. "Not applied" is
     only what the store itself said in its own words to the only attempt, or an attempt for which
     provably no connection was made. One attempt per call; whether to try again is decided in the
     allocation room, never in a client library.
I8   A strict counter holds nothing between requests. Requests that wait together share one batch,
     sent after they arrived. A batch is applied once at most, by its writer's numbers, and may be
     sent any number of times; its ids go only to requests that waited when it was *first* sent,
     and the rest is burnt. A writer's name and a batch's nonce are never used again.
I9   Every count is above 0 and every id within the limit, checked where the value is made; the
     store checks the limit in the same write.
I10  A position is made only by create or, closed, by a seal. A reservation on a missing
     position is an error, never a start from 0.
I11  Taking an id is synchronous: nothing can run between reading a cursor and moving it.
I12  An answer to an old request changes nothing: each request carries a token, and one request
     per counter is outstanding (or copies of one strict batch, which have one answer).
"""
