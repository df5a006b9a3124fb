"""An adoption that is finished while its old endpoint, two services and clients are at it."""

import asyncio
import threading
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from idservice.cli import http_get
from tests import engines
from tests.processes import START_S, Serving, command, wait_until
from tests.stores.backends import Dynamo
from tests.stores.test_dynamodb_adopt import KEYS, Legacy

pytestmark = [pytest.mark.process, pytest.mark.needs_engine]


EVERY_S = 0.005  # a request, of each that asks


class OldEndpoint(threading.Thread):
    """Increments the item for as long as it is a number, as one that nobody thought of."""

    def __init__(self, legacy: Legacy, returns: str) -> None:
        super().__init__(daemon=True)
        self.legacy, self.returns = legacy, returns
        self.got: list[int] = []
        self.ended = ""
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(EVERY_S):
            try:
                self.got.append(self.legacy.next(self.returns))
            except ClientError as error:
                self.ended = error.response["Error"]["Code"]
                return


class Caller(threading.Thread):
    """Asks a service for one id after the other."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.got: list[int] = []
        self.refused: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(EVERY_S):
            status, body = http_get.ask(self.url, "/next", timeout=START_S)
            if status == 200:
                self.got.append(int(body))
            else:
                self.refused.append(body)


@pytest.mark.parametrize("returns", ["old", "new"])
async def test_not_an_id_is_lost_or_repeated_and_the_old_endpoint_ends(
    dynoxide_url: str, tmp_path: Path, returns: str
) -> None:
    table = Dynamo(dynoxide_url)
    store = ("--store", f"dynamodb:{table.address}")

    def run(*words: str) -> str:
        done = command(*words, *store, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with engines.by_hand(dynoxide_url) as client:
        legacy = Legacy(client, KEYS["two"], table=f"donation-data-{uuid.uuid4().hex}")
        legacy.put(counterValue=1000)
        run("init")
        run(
            "create", "donations", "--adopt-table", legacy.table, "--adopt-key",
            "context=atomicCounter,id=id", "--adopt-attribute", "counterValue",
            "--adopt-returns", returns,
        )  # fmt: skip
        serve = (*store, "--default-counter", "donations", "--wait", f"{START_S:g}")
        with Serving(tmp_path, *serve) as one, Serving(tmp_path, *serve) as two:
            old = OldEndpoint(legacy, returns)
            callers = [Caller(f"http://127.0.0.1:{each.port}") for each in (one, two)]
            for thread in (old, *callers):
                thread.start()
            await asyncio.to_thread(lambda: [_has(each.got, 30) for each in (old, *callers)])
            assert "active, epoch 2" in run("adopt", "--finish", "donations", "--reason", "off")
            old.join(START_S)
            assert old.ended == "ValidationException"
            counts = [len(caller.got) for caller in callers]
            await asyncio.to_thread(
                lambda: [_has(c.got, n + 300) for c, n in zip(callers, counts, strict=True)]
            )
            for caller in callers:
                caller.over.set()
                caller.join(START_S)
            assert not any(caller.refused for caller in callers)
            got = old.got + callers[0].got + callers[1].got
            assert len(got) == len(set(got)), "repeated"
        assert "already active" in run("adopt", "--finish", "donations")
        assert int(run("next", "donations")) > max(got), "also the last one of the old endpoint"
        assert "active" in run("set", "donations", "--next", "500000")
        assert run("next", "donations") == "500000\n"


def _has(got: list[int], count: int) -> None:
    wait_until(lambda: len(got) >= count, said=lambda: f"only {len(got)} of {count}")
