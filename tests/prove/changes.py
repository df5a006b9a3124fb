"""Operators who change a counter in use, by commands and over HTTP; some of them die on the way.

`CHANGES` is the list of what they do: to do one thing more is one line more. For tests that are
marked `pytest.mark.process`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryFile

from tests.hammer import BROKEN
from tests.processes import environment, started
from tests.web.wire import ask

# A command and its flags; or method, path below the counter's and body of a request.
CHANGES: tuple[tuple[str, ...], ...] = (
    ("POST", "/set", '{{"next": {ahead}, "reason": "the proof"}}'),
    ("PATCH", "", '{{"state": "suspended"}}'),
    ("PATCH", "", '{{"state": "active"}}'),
    ("suspend", "--reason", "the proof"),
    ("resume",),
    ("DELETE", "", "{{}}"),
    ("PUT", "", "{{}}"),
    ("fence", "--ahead", "100"),
    ("delete",),
    ("create",),
    ("set", "--next", "{ahead}"),
    ("reshard", "--shards", "3"),
    ("reshard", "--shards", "1"),
)
DONE = {0, 200, 201, 202}  # how what succeeded ends,
REFUSED = {1, 3, 404, 409, 423, 503}  # and what did not, in order
PATIENCE_S = 15.0
AHEAD = 100_000  # ids


class Operators:
    """Changes of one counter; `ended` counts how they ended."""

    def __init__(
        self,
        counter: str,
        rng: Random,
        *,
        folder: Path,
        env: Mapping[str, str] | None,
        ports: Callable[[], list[int]],
        highest: Callable[[], int],
    ) -> None:
        self.store = ""  # the address that commands use
        self.ended: Counter[str] = Counter()
        self.done = 0
        self.faults: list[str] = []  # what ended as nothing may
        self._counter, self._rng = counter, rng
        self._folder, self._env = folder, env
        self._ports, self._highest = ports, highest

    async def work(self) -> None:
        """One change after the other, without end; one of five is left half-way."""
        while True:
            for change in CHANGES:
                leaves = self._rng.random() < 0.2
                await self._try(change, self._rng.uniform(0.05, 0.6) if leaves else PATIENCE_S)
                await asyncio.sleep(self._rng.uniform(0.1, 0.7))

    async def put_right(self) -> None:
        """A step towards a counter that is in use, whatever was left."""
        with suppress(*BROKEN):
            status, text = await self._request("GET", "", "")
            if status == 404:
                await self._request("PUT", "", "{}")
            elif '"suspended"' in text:
                await self._request("PATCH", "", '{"state": "active"}')

    async def _try(self, change: tuple[str, ...], patience_s: float) -> None:
        word, *words = (part.format(ahead=self._highest() + AHEAD) for part in change)
        try:
            async with asyncio.timeout(patience_s):
                ended, said = await (self._request if word.isupper() else self._command)(
                    word, *words
                )
        except TimeoutError:
            self.ended["left half-way"] += 1
        except BROKEN:
            self.ended["broken"] += 1
        else:
            self.ended[f"{word} {ended}"] += 1
            self.done += ended in DONE
            if ended not in DONE | REFUSED or "Traceback" in said:
                self.faults.append(f"{change} ended with {ended}: {said[-500:]}")

    async def _request(self, method: str, path: str, body: str) -> tuple[int, str]:
        port = self._rng.choice(self._ports())
        answer = await ask(
            port, f"/v1/counters/{self._counter}{path}", method, body=body.encode(),
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        return answer.status, answer.text

    async def _command(self, word: str, *flags: str) -> tuple[int, str]:
        words = [word, self._counter, *flags, "--store", self.store]
        with TemporaryFile("w+") as said:
            to = said.fileno()
            process = started(words, self._folder, environment(self._env), to, to)
            try:
                code = await asyncio.to_thread(process.wait)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            return code, said.read()
