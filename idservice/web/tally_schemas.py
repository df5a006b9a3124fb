"""The bodies of requests and answers of tallies as records. Amounts are exact text."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from idservice.core.amounts import AMOUNT, DECIMALS_MAX
from idservice.core.limits import KEY
from idservice.core.tally import AddFate, TallyState
from idservice.web.schemas import Reason

AMOUNT_TEXT = {"type": "string", "pattern": f"^{AMOUNT.pattern}$"}
Sent = Annotated[  # as the JSON has it: a number goes through no float
    Raw,
    Meta(
        description="An exact number as text, such as 12.50; a JSON number is taken literally.",
        extra_json_schema=AMOUNT_TEXT,
    ),
]
Bound = Annotated[
    Raw | UnsetType,
    Meta(
        description="An exact number as text; null for none.",
        extra_json_schema={**AMOUNT_TEXT, "type": ["string", "null"]},
    ),
]
Amount = Annotated[str, Meta(description="With all decimals.", extra_json_schema=AMOUNT_TEXT)]
Key = Annotated[str, Meta(pattern=f"^{KEY.pattern}$")]
Instant = Annotated[
    str, Meta(description="UTC, with milliseconds.", extra_json_schema={"format": "date-time"})
]
Revision = Annotated[int, Meta(description="Rises by one with each write to the tally.")]


class TallyConfiguration(msgspec.Struct, forbid_unknown_fields=True):
    """The configuration of a tally."""

    decimals: Annotated[
        int,
        Meta(
            description="The digits after the point; they are never changed.",
            extra_json_schema={"minimum": 0, "maximum": DECIMALS_MAX},
        ),
    ] = 0
    floor: Bound = UNSET
    ceiling: Bound = UNSET
    start: Bound = UNSET
    only: Annotated[Bound, Meta(description="The one amount that each add must have.")] = UNSET


class TallyPatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of a tally, one at least. A bound that is null is taken away; what is left out stays
    as it is."""

    state: Literal["active", "suspended"] | None = None
    floor: Bound = UNSET
    ceiling: Bound = UNSET
    reason: Reason = ""


class TallyDeletion(msgspec.Struct, forbid_unknown_fields=True):
    """The reason of a deletion."""

    reason: Reason = ""


class AddRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The amount to be added; it may be negative."""

    amount: Sent


class SetSumRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The sum to be set."""

    sum: Sent
    reason: Reason = ""


class AddAnswer(msgspec.Struct):
    """An add that was counted: the sum with it, and the revision and time of that write."""

    tally: str
    key: Key
    amount: Amount
    sum: Amount
    at: Instant
    rev: Revision
    replayed: Annotated[bool, Meta(description="True if an earlier request counted it.")]


class SetSumAnswer(msgspec.Struct):
    """A sum that was set: the sum before and after it, and the difference as its amount."""

    tally: str
    key: Key
    amount: Amount
    before: Amount
    sum: Amount
    at: Instant
    rev: Revision
    replayed: Annotated[bool, Meta(description="True if an earlier request set it.")]


class RecordAnswer(msgspec.Struct):
    """The record of a key. A refusal left the sum as it was."""

    tally: str
    key: Key
    kind: Literal[tuple(fate.value for fate in AddFate)]  # type: ignore[valid-type]
    amount: Amount
    sum: Amount
    at: Instant
    rev: Revision
    by: Annotated[str, Meta(description="The operator who set the sum.")] | UnsetType = UNSET


class SumAnswer(msgspec.Struct):
    """A sum. It has every add that was answered before it was asked for."""

    tally: str
    sum: Amount
    at: Annotated[Instant, Meta(description="When it was last changed.")]
    as_of: Annotated[Instant, Meta(description="When the read began.")]
    rev: Revision


class TallyChangeAnswer(msgspec.Struct):
    """The last change of a tally by an operator."""

    what: str
    by: str
    at: Instant
    reason: str


class TallyAnswer(msgspec.Struct):
    """A tally: its configuration, its state and its sum."""

    tally: str
    state: Literal[tuple(state.value for state in TallyState)]  # type: ignore[valid-type]
    decimals: int
    floor: Amount | None
    ceiling: Amount | None
    only: Amount | None
    start: Amount
    sum: Amount
    at: Instant
    rev: Revision
    adds: Annotated[int, Meta(description="The number of its records, with refusals.")]
    last_change: TallyChangeAnswer | UnsetType = UNSET


class TallyList(msgspec.Struct):
    """A page of the tallies, by name."""

    tallies: list[TallyAnswer]
    suspect: (
        Annotated[
            list[str],
            Meta(description="Names of this page that are not shown: `tally_went_back` says why."),
        ]
        | UnsetType
    ) = UNSET
    next: (
        Annotated[str, Meta(description="Send it as `after` for the next page, if there is one.")]
        | UnsetType
    ) = UNSET
