"""`python -m idservice` and the `idservice` command."""

import sys
from collections.abc import Sequence

from idservice.server import stop_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; without `arguments`, that of this process."""
    if arguments is None:
        stop_signals.hear()
    from idservice.cli.main import main as run  # after that: it takes a while

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
