"""The certificates that TLS to AWS trusts: a configured bundle, else those of the library.

The library reads a bundle at the first request. A mistake in it would look like a broken network.
"""

import os
import ssl
from collections.abc import Mapping


class UnusableBundle(Exception):
    """The configured bundle cannot be read, or has no certificate in it."""


def trusted(profile: Mapping[str, str]) -> str | bool:
    """Return the bundle that the environment or else the profile names; True if neither does.

    Raises UnusableBundle.
    """
    named = {"AWS_CA_BUNDLE": os.environ.get("AWS_CA_BUNDLE")}
    named["ca_bundle of the AWS profile"] = profile.get("ca_bundle")
    for setting, path in named.items():
        if not path:
            continue
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError as error:
            raise _unusable(path, setting, "holds no certificates in PEM form") from error
        except OSError as error:
            raise _unusable(path, setting, f"cannot be read ({error.strerror})") from error
        return path
    return True


def _unusable(path: str, setting: str, why: str) -> UnusableBundle:
    return UnusableBundle(
        f"the file {path} that {setting} names {why}: name a file with the certificates of the"
        " authorities to trust, or remove the setting"
    )
