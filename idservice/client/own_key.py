"""The access key that a client sends with each request, and its refusals. It is shown nowhere."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress

from idservice.client.address import KEY_VARIABLE
from idservice.client.protocol import Reply
from idservice.core.access_key import MARK, id_in
from idservice.errors import Usage

FILE_MAX = 4096  # bytes of a file that are looked at
HELD_S = 1.0  # a refusal is given again for so long, without a request
HELD_MAX = 256  # refusals of single paths
REFUSING = b"urn:idservice:problem:key_"  # in a problem that says what is wrong with a key
UNAUTHORIZED, FORBIDDEN = 401, 403
UNASKED = ("/livez", "/readyz")  # paths that need no key anywhere


class OwnKey:
    """The key of `text`, or of a `file`, which is read again once the key is refused.

    `name` is the word of messages for that file or variable. Raises Usage if the text is no key.
    No message shows the text.
    """

    __slots__ = ("_file", "_refusals", "_text", "name")

    def __init__(self, text: str = "", *, name: str = "the argument key", file: str = "") -> None:
        self._file = file
        self.name = f"the file {file}" if file else name
        self._text = _read(file) if file else _checked(text, name)
        # Of each path, or of all by "": the time until which a refusal is given again, and it.
        self._refusals: dict[str, tuple[float, Reply]] = {}

    @classmethod
    def given(cls, key: str | None) -> "OwnKey":
        """Return the key of an application, or if it gave none that of the environment. Raises
        Usage."""
        if key is None:
            return cls.of_environment(os.environ)
        if not isinstance(key, str):
            raise TypeError(f"key is of the type {type(key).__name__}; it must be a str")
        return cls(key)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], file: str | None = None) -> "OwnKey":
        """Return the key in a file, else that of the environment, if any. Raises Usage."""
        if file is not None:
            return cls(file=file)
        return cls(environment.get(KEY_VARIABLE, ""), name=KEY_VARIABLE)

    @property
    def headers(self) -> dict[str, str]:
        """The headers with which a request shows the key; none without a key."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    @property
    def advice(self) -> str:
        """The words that say what to do once the key is refused."""
        if self._file:
            return f"Put a key that is valid there into {self.name}, which is read again by itself"
        if self._text:
            return f"It was shown the key of {self.name}: set one that is valid there"
        return (
            f"It was shown no key: set {KEY_VARIABLE}, or name a file with --key-file, as a sidecar"
            " does with --store-key-file"
        )

    @property
    def place(self) -> str:
        """The words that say where another key is to go."""
        if self._file:
            return f"put it into {self.name}, which is read again by itself"
        return f"set it as {self.name}"

    def held(self, target: str, now: float) -> Reply | None:
        """Return the refusal that a request would get again; None if it may succeed."""
        if not self._refusals or target in UNASKED:
            return None
        for path in ("", _path(target)):
            until, reply = self._refusals.get(path, (now, None))
            if reply is not None and now < until:
                return reply
        return None

    def is_renewed(self, target: str, reply: Reply, now: float) -> bool:
        """Take note of an answer; return True if it refuses the key and the file has another key.

        Then the request may be sent again with that key, because nothing was done.
        """
        if reply.status not in (UNAUTHORIZED, FORBIDDEN) or REFUSING not in reply.body:
            return False
        if self._read_again():
            self._refusals.clear()
            return True
        if len(self._refusals) >= HELD_MAX:
            self._refusals.clear()
        path = "" if reply.status == UNAUTHORIZED else _path(target)
        self._refusals[path] = now + HELD_S, reply
        return False

    def _read_again(self) -> bool:
        before = self._text
        # A pipe is there once. A file that is being written is read at the next refusal.
        if self._file:
            with suppress(OSError, Usage):
                if stat.S_ISREG(os.stat(self._file).st_mode):
                    self._text = _read(self._file)
        return self._text != before


def _path(target: str) -> str:
    return target.partition("?")[0]


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            text = opened.read(FILE_MAX)
    except OSError as error:
        why = error.strerror or error
        raise Usage(why=f"the file {file} with the access key cannot be read: {why}") from None
    if not text.strip():
        raise Usage(why=f"the file {file} has no access key: it is empty")
    return _checked(text, f"the file {file}")


def _checked(text: str, name: str) -> str:
    """Return the text of a key without the space around it. Raises Usage."""
    text = text.strip()
    if text and id_in(text) is None:
        why = (
            "has a typo, or is cut off" if text.startswith(MARK) else f"does not begin with {MARK}"
        )
        raise Usage(why=f"{name} has no access key: its text {why}")
    return text
