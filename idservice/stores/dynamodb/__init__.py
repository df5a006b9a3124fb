"""DynamoDB as a store: many instances on one table.

Theory of operation. `store` has the operations of `CatalogueStore`. Each builds its request with
`requests`, sends it with `client`, and reads the answer with `items`.
`client` sends each request once. It raises CallRefused for a refusal in DynamoDB's own words, which
proves that nothing was applied, as do CallNotSent and CallNotSigned: no connection was made, or
there were no credentials. CallUnanswered is for everything else, which proves nothing.
A reservation is one UpdateItem. When its condition fails, DynamoDB returns the item as it was, so
the reason needs no second read. A change writes the entry and the catalogue's revision in one
transaction, so an instance that sees the old revision has the old entries.
`table` creates the table and recognises it by its id, at every look at the catalogue. TableIdentity
makes every request wait for that check after something was not found, after a look without an
answer, and after 5 s in which the table was not heard of: a table that was deleted and restored
under its name has older positions. `region` finds the region that an address leaves out.
`description` and `examine` have the checks that
`verify` and `doctor` share. `adopt` takes over the item of an existing endpoint, which goes on
counting in it until the adoption is finished.
"""

from idservice.stores.dynamodb.store import DynamoStore as DynamoStore
