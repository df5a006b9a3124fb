"""`python -m idservice` and the `idservice` command."""

import sys

from idservice.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
