"""How a process ends: the exit code of each way, and the one line it says."""

import os
import sys
from collections.abc import Callable

from idservice import errors

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_STORE = 0, 1, 2, 3


def ending(run: Callable[[], int]) -> int:
    """The exit code of `run`; an error of ours is said in a line, without a traceback."""
    _open_standard_streams()
    try:
        result = run()
        sys.stdout.flush()
        return result
    except errors.Usage as error:
        return _fail(error, EXIT_USAGE)
    except (errors.BadName, errors.BadCount, errors.BadConfiguration) as error:
        return _fail(error, EXIT_USAGE)
    except errors.StoreUnready as error:
        return _fail(error, EXIT_STORE)
    except errors.IdserviceError as error:
        return _fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        return EXIT_FAILURE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except OSError as error:  # what is printed cannot be written
        print(f"idservice: {error.strerror or error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: else a socket gets its number, and
    the loop aborts the process when that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")


def _fail(error: errors.IdserviceError, code: int) -> int:
    text = str(error)
    print(f"idservice: {text[:-1] if text.endswith(('?.', '..')) else text}", file=sys.stderr)
    return code
