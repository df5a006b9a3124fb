"""AWS credentials: where they are looked for, and why none were found.

Each look begins anew, with nothing remembered: files may have been written since, and sources may
answer by now.
"""

import os
from typing import Any

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    SSOError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from idservice.client.address import without_user
from idservice.client.http_async import Resolver
from idservice.stores.dynamodb.trust import UnusableBundle, trusted

LOOK_UP_MAX_S = 4.5  # below the limit of a call: without an address nothing was sent
# A connection is kept for 60 s: after the default of 12 s each refill would need a handshake.
CONNECTOR = {"keepalive_timeout": 60, "resolver": Resolver(LOOK_UP_MAX_S)}
METADATA = "http://169.254.169.254"
# Raised before a request is signed, so that it was not sent.
NONE_TO_SIGN_WITH = (
    CredentialRetrievalError, MetadataRetrievalError, NoCredentialsError, SSOError,
)  # fmt: skip


async def look_up() -> tuple[Any, Any]:
    """Return a new session and its credentials.

    Raises UnusableBundle, errors of the AWS library and OSError.
    """
    import aioboto3  # takes 0.3 s and 20 MB, and is not needed to read an address
    from aiobotocore.session import AioSession

    from idservice.stores.dynamodb.straight import StraightConfig

    core = AioSession()
    # For all clients of the session. The library takes an empty AWS_CA_BUNDLE for "check nothing".
    core.set_config_variable("ca_bundle", trusted(core.get_scoped_config()))
    # For the services that give credentials, too. A client's own connector_args would be ignored.
    core.set_default_client_config(StraightConfig(connector_args=CONNECTOR))
    session: Any = aioboto3.Session(botocore_session=core)
    credentials = await session.get_credentials()
    if credentials is None:  # a client made without them would never look again
        raise NoCredentialsError
    return session, credentials


def why_none(error: Exception) -> tuple[str, bool]:
    """Return why no client could be made and what to do, and True if waiting helps."""
    match error:
        case NoRegionError():
            why = "no region is known: add ?region=REGION to the address, or set AWS_REGION"
            return why, False
        case UnusableBundle():
            return str(error), False
        case NoCredentialsError():
            why = f"no AWS credentials were found in {_sources()}: give the process a role, or set"
            return f"{why} AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", True
        case TimeoutError() | NoConnectionError() | HTTPClientError() | MetadataRetrievalError():
            why = f"the source of AWS credentials does not answer ({_sources()})"
            return f"{why}: check role and network", True
        case SSOError():
            return "the AWS sign-on has ended, or never began: run `aws sso login`", True
        case CredentialRetrievalError() | ClientError():
            why = f"the source of AWS credentials gave none ({_sources()})"
            return f"{why}: check role and network", True
        case OSError(filename=str() as path):  # a token that is mounted late, say
            why = f"the file {path} for AWS credentials cannot be read ({error.strerror})"
            return f"{why}: check that it is mounted, and its permissions", True
        case _:
            why = without_user(str(error))[:200].rstrip(".")
            return f"no client can be made: {why}: check the AWS settings", False


def _sources() -> str:
    """Return the sources of credentials that are asked in this environment."""
    said = os.environ.get
    profile = said("AWS_PROFILE") or said("AWS_DEFAULT_PROFILE")
    files = " and ".join(
        said(name) or default
        for name, default in (
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        )
    )
    found = [] if profile else ["the environment"]
    found.append(f"profile {profile or 'default'} of {files}")
    if role := said("AWS_ROLE_ARN") if said("AWS_WEB_IDENTITY_TOKEN_FILE") else None:
        found.append(f"STS, for {role} by the token in {said('AWS_WEB_IDENTITY_TOKEN_FILE')}")
    container = said("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if relative := said("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        container = f"http://169.254.170.2{relative}"
    if container:
        found.append(f"the container's endpoint {without_user(container).partition('?')[0]}")
    if said("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        metadata = said("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
        found.append(f"the instance's metadata at {without_user(metadata)}")
    return ", ".join(found)
