"""The region of a table whose address names none: the environment comes before a file."""

import logging
import os
import re
from contextlib import suppress

from botocore.exceptions import BotoCoreError

log = logging.getLogger("idservice.store")

ENDPOINT = "the endpoint in the address of the store"
PROFILE = "the AWS profile"
AWS_HOST = re.compile(
    r"(?:dynamodb(?:-fips)?|ddb)\.([a-z]+(?:-[a-z]+)+-[0-9]+)\.(?:vpce\.)?(?:amazonaws|api\.aws)\b"
)


def named_region(endpoint: str | None = None) -> str | None:
    """Return the region that endpoint, environment and AWS profile name; warn if they differ.

    The AWS library alone reads no AWS_REGION, which AWS's containers set, and would prefer a
    profile: instances with it and without it would count in tables of two regions.
    """
    from botocore.session import Session  # takes long, and is not needed to read an address

    host = AWS_HOST.search(endpoint or "")
    named = {ENDPOINT: host and host[1]}
    named |= {name: os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")}
    with suppress(BotoCoreError):  # no such profile, say: that is told when the client is made
        named[PROFILE] = Session().get_scoped_config().get("region")
    said = [(source, region) for source, region in named.items() if region]
    for source, region in said[1:]:
        if region != said[0][1]:
            log.warning(
                "%s says region %s, and %s says %s: the table in %s is used. Another process may"
                " use the other one, and hand out the same ids: name it with ?region=%s in the"
                " address of the store",
                *said[0], source, region, said[0][1], said[0][1],
                extra={"action": "regions_differ"},
            )  # fmt: skip
    return said[0][1] if said else None
