"""Names the store in the commands that a message tells to run."""

import argparse
import re
import shlex

COMMAND = re.compile(r"`(idservice (?!init|next|serve)[a-z]+ (?![^`]*--(?:store|url))[^`]*)`")


def at_store(text: str, arguments: argparse.Namespace) -> str:
    """Return a message whose commands name the store that the command line named."""
    if not getattr(arguments, "store_said", False):
        return text
    store: str = arguments.store
    if not store.startswith(("sqlite:", "dynamodb:")) and "`idservice key " in text:
        return text  # a service keeps its keys elsewhere
    at = f"--store {shlex.quote(store)}"
    return COMMAND.sub(lambda found: f"`{found[1]} {at}`", text)
