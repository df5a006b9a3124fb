"""The access key that a command shows to the service that it asks."""

import argparse
import os

from idservice.client.own_key import OwnKey
from idservice.server import settings


def shown_key(arguments: argparse.Namespace) -> OwnKey:
    """Return the key in --key-file, else that of the environment, if any. Raises Usage.

    Beside a sidecar it is the sidecar's, whose variables the command sees.
    """
    file: str | None = getattr(arguments, "key_file", None)
    if file is None:
        file = settings.from_environment(settings.STORE_KEY_FILE, os.environ)
    return OwnKey.of_environment(os.environ, file)
