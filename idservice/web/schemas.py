"""The bodies of requests and answers as records; `openapi` makes the document of them."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from idservice.catalogue.changes import JUMP_MAX, REASON_MAX
from idservice.catalogue.counters import RATE_MAX, REQUEST_MAX_MAX, RUNWAY_MAX_S, RUNWAY_MIN_S
from idservice.stores.records import SHARDS_MAX

# In the document these are the schemas IdNumber and WantedNumber, see `components`. The bounds of
# requests are for the document: handlers check them, and word the refusals.
Number = int | str
Wanted = int | float | str
Shards = Annotated[
    int | float, Meta(extra_json_schema={"type": "integer", "minimum": 1, "maximum": SHARDS_MAX})
]
Runway = Annotated[
    float, Meta(extra_json_schema={"minimum": RUNWAY_MIN_S, "maximum": RUNWAY_MAX_S})
]
RequestMax = Annotated[
    int | float,
    Meta(
        description="The most ids of one request; 0 means no bound.",
        extra_json_schema={"type": "integer", "minimum": 0, "maximum": REQUEST_MAX_MAX},
    ),
]
RateMax = Annotated[
    float,
    Meta(
        description="Ids per second that each instance gives; 0 means no bound.",
        extra_json_schema={"minimum": 0, "maximum": RATE_MAX},
    ),
]
Reason = Annotated[
    str,
    Meta(
        description="The reason; it is logged with the client and the change.",
        extra_json_schema={"maxLength": REASON_MAX, "pattern": "^[ -~]*$"},
    ),
]


class CounterConfiguration(msgspec.Struct, forbid_unknown_fields=True):
    """The configuration of a counter. A number may be sent as a string of its digits. A strict
    counter has one shard."""

    start: Wanted = 0
    limit: Wanted | None = None
    strict: bool = False
    shards: Shards = 1
    runway: Runway | None = None
    request_max: RequestMax | None = None
    rate_max: RateMax | None = None


class Patch(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of a counter, one at least; a field that is null or left out stays as it is."""

    state: Literal["active", "suspended"] | None = None
    limit: Wanted | None = None
    runway: Runway | None = None
    request_max: RequestMax | None = None
    rate_max: RateMax | None = None
    force: Annotated[
        bool, Meta(description=("Set a limit below ids in use: no ids are left then."))
    ] = False
    reason: Reason = ""


class Deletion(msgspec.Struct, forbid_unknown_fields=True):
    """The reason of a deletion."""

    reason: Reason = ""


class SetTo(msgspec.Struct, forbid_unknown_fields=True):
    """The id from which a counter goes on."""

    next: Wanted
    allow_lower: Annotated[bool, Meta(description="Go below ids in use, which repeats them.")] = (
        False
    )
    force: Annotated[bool, Meta(description=f"Skip more than {JUMP_MAX} ids.")] = False
    reason: Reason = ""


class OneId(msgspec.Struct):
    """One id."""

    counter: str
    id: Number


class IdBatch(msgspec.Struct):
    """Several ids, in order."""

    counter: str
    count: int
    ids: list[Number]


class IdRange(msgspec.Struct):
    """`count` ids: `first`, `first + step` and so on."""

    first: Number
    step: Annotated[int, Meta(ge=1)]
    count: Annotated[int, Meta(ge=1)]


class IdRanges(msgspec.Struct):
    """Several ids as ranges, in order."""

    counter: str
    count: int
    epoch: int
    mode: Literal["block", "strict"]
    ranges: list[IdRange]
    nonce: str | UnsetType = UNSET


class GapAnswer(msgspec.Struct):
    """Ids that were lost to one cause since the start."""

    ids: int
    why: str


class ItemAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """An item in another table, by its table and its key."""

    table: str
    key: dict[str, str]


class AdoptedAnswer(ItemAnswer, forbid_unknown_fields=True):
    """The item that holds the value of an adopted counter."""

    attribute: str
    returns: Annotated[
        Literal["old", "new"], Meta(description="The value that its old endpoint answers.")
    ]


class ChangeAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """The last change of a counter: the command, its operator, time and reason."""

    what: str
    by: str
    at: datetime | None
    reason: str
    until: (
        Annotated[
            datetime,
            Meta(description=("While the change closes the counter: about when ids come again.")),
        ]
        | UnsetType
    ) = UNSET


class CounterAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """A counter: its configuration and state, its position in the store, its ids in memory."""

    counter: str
    state: str
    epoch: int
    start: Number
    limit: Number
    strict: bool
    shards: int
    runway: Annotated[float, Meta(description="Seconds for which ids are to last.")]
    request_max: Annotated[int, Meta(description="The most ids of one request.")] | UnsetType = (
        UNSET
    )
    rate_max: (
        Annotated[float, Meta(description="Ids per second that each instance gives.")] | UnsetType
    ) = UNSET
    change: Annotated[str, Meta(description="The change under way.")] | UnsetType = UNSET
    last_change: ChangeAnswer | UnsetType = UNSET
    next: Annotated[Number, Meta(description="The lowest id that is not reserved.")] | UnsetType = (
        UNSET
    )
    next_by_shard: list[Number] | UnsetType = UNSET
    returned: (
        Annotated[int, Meta(description="Ids that were given back and are not reserved again.")]
        | UnsetType
    ) = UNSET
    moved_to: Annotated[str, Meta(description="The store it was moved to.")] | UnsetType = UNSET
    arrived: (
        Annotated[bool, Meta(description=("True once the counter is known to be there."))]
        | UnsetType
    ) = UNSET
    adopted: AdoptedAnswer | UnsetType = UNSET
    home: (
        Annotated[ItemAnswer, Meta(description="The item that it came from, and stays in.")]
        | UnsetType
    ) = UNSET
    store: (
        Annotated[
            Literal["down"],
            Meta(description="The store does not answer; the rest is from memory, without `next`."),
        ]
        | UnsetType
    ) = UNSET
    ids_in_memory: int | UnsetType = UNSET
    gaps: dict[str, GapAnswer] | UnsetType = UNSET
    runway_seconds: float | UnsetType | None = UNSET


class CounterList(msgspec.Struct):
    """A page of the counters, by name."""

    counters: list[CounterAnswer]
    next: (
        Annotated[str, Meta(description="Send it as `after` for the next page, if there is one.")]
        | UnsetType
    ) = UNSET
