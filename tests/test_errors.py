"""Errors: their texts are data, so that they are there however Python runs."""

import subprocess
import sys

import pytest

from idservice import errors


@pytest.mark.process
def test_a_message_is_complete_without_docstrings() -> None:
    """`python -OO` removes docstrings; messages were docstrings once, and vanished."""
    code = "from idservice import errors; print(errors.BadCount(value='0', most=9))"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(errors.BadCount(value="0", most=9))
    assert done.stdout.startswith("count is '0'; it must be a whole number from 1 to 9")


def test_every_error_has_a_text_of_its_own() -> None:
    """But for kinds of another error that say the same."""

    def below(kind: type[errors.IdserviceError]) -> list[type[errors.IdserviceError]]:
        return [kind, *(each for one in kind.__subclasses__() for each in below(one))]

    ours = [
        kind for kind in below(errors.IdserviceError) if kind.__module__.startswith(errors.__name__)
    ]
    assert len(ours) > 40
    texts = [kind.text for kind in ours]
    assert len(set(texts)) == len(ours)
    assert all(text.endswith((".", "{why}")) for text in texts)
