"""Watches what tests see of logs, errors, metrics and pages for whole access keys (K4).

A key that is in one of them fails the test that saw it. What prints or answers a key on purpose,
once, is not looked at: the command that makes one, and its route. A test whose own output has one
is marked `prints_a_key`.
"""

import re

import pytest

from idservice.core.access_key import ID_DIGITS, MARK, id_in

KEYS = re.compile(rf"{MARK}(?:read|use|admin)_[{ID_DIGITS}]+_[0-9A-Za-z]{{38}}", re.ASCII)
_seen: list[str] = []  # since the last look, where it was and around what


def look(text: str | bytes | None, where: str) -> None:
    """Look for keys in what a test got to see."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not text or MARK not in text:
        return
    for found in KEYS.finditer(text):
        if id_in(found[0]) is not None:
            before = text[max(0, found.start() - 80) : found.start()]
            _seen.append(f"{where}: …{before}{found[0][:20]}…")


def refuse(item: pytest.Item, *phases: str) -> None:
    """Fail if a key was seen since the last time, or is in what was written or logged in these
    phases of the test."""
    if item.get_closest_marker("prints_a_key") is None:
        for phase, what, text in item._report_sections:
            if phase in phases:
                look(text, f"captured {what}")
    seen, _seen[:] = list(_seen), []
    if seen:
        pytest.fail("an access key is where none may be (K4):\n" + "\n".join(seen), pytrace=False)
