"""The refusals of requests that show no key of the store. They are made once, so that wrong keys
cause little work."""

from idservice import errors
from idservice.core.access_key import MARK

MISSING = errors.AccessKeyMissing()
SEVERAL = errors.KeyMalformed(why="the request has several Authorization headers")
OTHER = errors.KeyMalformed(why=f"it does not begin with {MARK}")
TYPO = errors.KeyMalformed(why="it has a typo, or is cut off")
UNKNOWN = errors.KeyUnknown()  # for a key that the store has, another one is made

OF_NO_KEY = frozenset((MISSING, SEVERAL, OTHER, TYPO, UNKNOWN))
