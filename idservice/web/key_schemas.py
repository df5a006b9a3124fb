"""The bodies of requests and answers on access keys as records."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from idservice.core.access_key import KEY_ID, NOTE_MAX, SCOPES_MAX
from idservice.core.limits import NAME
from idservice.web.schemas import Reason
from idservice.web.tally_schemas import Instant

RoleName = Literal["read", "use", "admin"]
KeyId = Annotated[str, Meta(extra_json_schema={"pattern": f"^{KEY_ID.pattern}$"})]
Scopes = Annotated[
    list[Annotated[str, Meta(extra_json_schema={"pattern": rf"^(\*|{NAME.pattern}(\.\*)?)$"})]],
    Meta(
        description="Names, prefixes such as `acme.*`, or `*`.",
        extra_json_schema={"minItems": 1, "maxItems": SCOPES_MAX},
    ),
]


class KeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An access key to be made."""

    role: Annotated[RoleName, Meta(description="Each role contains the one before.")]
    scopes: Scopes
    note: Annotated[
        str,
        Meta(
            description="Who uses the key.",
            extra_json_schema={"maxLength": NOTE_MAX, "pattern": "^[ -~]*$"},
        ),
    ] = ""
    expires: (
        Annotated[
            str,
            Meta(
                description=(
                    "The instant from which the key is refused, or a day, which means its "
                    "beginning in UTC."
                ),
                extra_json_schema={"pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$"},
            ),
        ]
        | None
    ) = None


class Revocation(msgspec.Struct, forbid_unknown_fields=True):
    """The reason of a revocation."""

    reason: Reason = ""


class KeyAnswer(msgspec.Struct):
    """An access key, without its secret."""

    id: KeyId
    role: RoleName
    scopes: list[str]
    state: Literal["active", "expired", "revoked"]
    note: str
    by: Annotated[str, Meta(description="The operator or the key that made it.")]
    created: Instant
    expires: Annotated[Instant, Meta(description="The key is refused from this instant on.")] | None
    revoked: Annotated[Instant, Meta(description="When it was revoked.")] | UnsetType = UNSET
    revoked_by: (
        Annotated[str, Meta(description=("The operator or the key that revoked it."))] | UnsetType
    ) = UNSET
    reason: Annotated[str, Meta(description="Why it was revoked.")] | UnsetType = UNSET


class NewKey(msgspec.Struct):
    """An access key that was made. Its text is shown this once."""

    id: KeyId
    key: Annotated[str, Meta(description="Send it as `Authorization: Bearer …`.")]
    role: RoleName
    scopes: list[str]
    note: str
    expires: Instant | None


class KeyList(msgspec.Struct):
    """The access keys, the oldest first."""

    keys: list[KeyAnswer]
