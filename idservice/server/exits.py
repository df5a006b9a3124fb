"""Turns the end of a process into an exit code and, after an error, one line."""

import io
import os
import sys
from collections.abc import Callable

from idservice import errors

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_STORE = 0, 1, 2, 3
BAD_USAGE = (
    errors.Usage, errors.BadName, errors.BadCount, errors.BadConfiguration, errors.BadTally,
    errors.BadAmount, errors.BadKey, errors.BadAccessKey, errors.BadUsageReport,
)  # fmt: skip


def ending(run: Callable[[], int]) -> int:
    """Run to the end and return the exit code; print an expected error without a traceback."""
    _open_standard_streams()
    _print_any_text()
    try:
        result = run()
        sys.stdout.flush()
        return result
    except BAD_USAGE as error:
        return _fail(error, EXIT_USAGE)
    except errors.StoreUnready as error:
        return _fail(error, EXIT_STORE)
    except errors.IdserviceError as error:
        return _fail(error, EXIT_FAILURE)
    except KeyboardInterrupt:
        return EXIT_FAILURE
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            print(f"idservice: {_why(error)}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE


def _why(error: OSError) -> str:
    """Return what failed and what to do: about a file if one is named, else about the output."""
    why = error.strerror or str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {why}. Check the path and its permissions."
    return (
        f"The output cannot be written: {why}. Send it to a place with room. What was done stays"
        " done: ids that were taken and not printed are used up."
    )


def _open_standard_streams() -> None:
    """Put the null device in place of each closed standard stream.

    Otherwise a socket would get its number, and closing it would abort the process.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")


def _print_any_text() -> None:
    """Escape characters that a locale cannot print, such as in a path, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(error: errors.IdserviceError, code: int) -> int:
    text = str(error)
    print(f"idservice: {text[:-1] if text.endswith(('?.', '..')) else text}", file=sys.stderr)
    return code
