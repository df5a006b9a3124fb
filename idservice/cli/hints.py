"""Names the store in the commands that a message tells to run."""

import argparse
import re
import shlex

COMMAND = re.compile(r"`(idservice (?!init|next|serve)[a-z]+ (?![^`]*--(?:store|url))[^`]*)`")


def at_store(text: str, arguments: argparse.Namespace) -> str:
    """Return a message whose commands name the store that the command line named."""
    if not getattr(arguments, "store_said", False):
        return text
    at = f"--store {shlex.quote(arguments.store)}"
    return COMMAND.sub(lambda found: f"`{found[1]} {at}`", text)
