"""What a page in a real browser can do to a service of this machine: change and use up nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.listening import listening
from tests.processes import Serving

from .browser import Browser
from .wire import ask

pytestmark = [
    pytest.mark.process, pytest.mark.needs_browser, pytest.mark.xdist_group("browser"),
]  # fmt: skip

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
# Each asks in its way, and goes on whether it may read the answer or not. %s is the service.
CHANGES = """
(async () => {
  const set = '%s/v1/counters/default/set', gone = '%s/v1/counters/default';
  const body = JSON.stringify({next: 1000006}), json = {'Content-Type': 'application/json'};
  const tries = [
    [set, {method: 'POST', mode: 'no-cors', body}],
    [set, {method: 'POST', mode: 'no-cors', body, headers: json}],
    [set, {method: 'POST', body, headers: json}],
    [set, {method: 'POST', mode: 'no-cors', body: new Blob([body])}],
    [gone, {method: 'DELETE'}],
    [gone, {method: 'PATCH', body: '{"state":"suspended"}', headers: json}],
    [gone + '2', {method: 'PUT', body: '{}', headers: json}],
  ];
  for (const [url, how] of tries) await fetch(url, how).catch(() => 0);
  navigator.sendBeacon(set, new Blob([body], {type: 'text/plain'}));
  const form = document.createElement('form'), frame = document.createElement('iframe');
  frame.name = 'into';
  document.body.append(frame, form);
  Object.assign(form, {action: set, method: 'POST', enctype: 'text/plain', target: 'into'});
  form.innerHTML = `<input name='{"next":1000006,"reason":"' value='"}'>`;
  const loaded = new Promise(done => frame.onload = done);
  form.submit();
  await loaded;
  return tries.length;
})()
"""
USES = """
(async () => {
  const next = '%s/next?count=1000';
  for (const mode of ['no-cors', 'cors']) for (const method of ['GET', 'POST'])
    await fetch(next, {method, mode}).catch(() => 0);
  for (const [kind, name] of [['img', 'src'], ['script', 'src'], ['iframe', 'src'],
                              ['video', 'src'], ['object', 'data']]) {
    const one = document.createElement(kind);
    const ended = new Promise(done => one.onload = one.onerror = done);
    one[name] = next;
    document.body.append(one);
    await ended;
  }
  return 'asked';
})()
"""
ADDS = """
(async () => {
  const add = '%s/v1/tallies/gifts/add', body = '{"amount":"1"}';
  const key = {'Idempotency-Key': 'a'}, json = {'Content-Type': 'application/json'};
  for (const mode of ['no-cors', 'cors']) for (const headers of [{}, key, json, {...key, ...json}])
    for (const method of ['GET', 'POST'])
      await fetch(add, {method, mode, headers, ...(method == 'POST' ? {body} : {})}).catch(() => 0);
  navigator.sendBeacon(add, new Blob([body], {type: 'text/plain'}));
  return await fetch('%s/v1/tallies/gifts').then(() => 'read', () => 'not read');
})()
"""


@asynccontextmanager
async def page() -> AsyncIterator[int]:
    """The port of a server of somebody else's page."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PAGE)

    async with listening(served) as port:
        yield port


async def position(port: int) -> int:
    """The first id that is not used: those in memory are as before."""
    shown = json.loads((await ask(port, "/v1/counters/default")).body)
    return int(shown["next"]) - int(shown["ids_in_memory"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_port_changes_no_counter(
    chromium: Browser, tmp_path: Path, host: str
) -> None:
    with Serving(tmp_path, "--init", "--store", "sqlite:ids.db", "--allow-changes") as serving:
        port = serving.port
        assert (await ask(port)).body == b"0"
        async with page() as other:
            tab = await chromium.tab()
            await tab.go(f"http://{host}:{other}/")
            url = f"http://127.0.0.1:{port}"
            assert await tab.run(CHANGES % (url, url)) == 7
            assert await position(port) == 1
            assert (await ask(port)).body == b"1"
        listed = json.loads((await ask(port, "/v1/counters")).body)["counters"]
        assert [(one["counter"], one["state"]) for one in listed] == [("default", "active")]


async def test_a_page_of_another_site_uses_up_no_id(chromium: Browser, tmp_path: Path) -> None:
    with Serving(tmp_path, "--init", "--store", "sqlite:ids.db") as serving:
        port = serving.port
        assert (await ask(port)).body == b"0"
        async with page() as other:
            tab = await chromium.tab()
            await tab.go(f"http://localhost:{other}/")
            assert await tab.run(USES % f"http://127.0.0.1:{port}") == "asked"
            assert sum("/next" in one for one in tab.asked) >= 6
            assert (await ask(port)).body == b"1"
            # One click is a request by the user, not by the page.
            await tab.go(f"http://127.0.0.1:{port}/next")
            assert await tab.run("document.body.innerText") == "2"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_page_of_another_port_adds_nothing_and_reads_no_sum(
    chromium: Browser, tmp_path: Path, host: str
) -> None:
    with Serving(tmp_path, "--init", "--store", "sqlite:ids.db", "--allow-changes") as serving:
        port = serving.port
        assert (await ask(port, "/v1/tallies/gifts", "PUT")).status == 201
        async with page() as other:
            tab = await chromium.tab()
            await tab.go(f"http://{host}:{other}/")
            url = f"http://127.0.0.1:{port}"
            assert await tab.run(ADDS % (url, url)) == "not read"
            assert sum("/add" in one for one in tab.asked) >= 16
        (gifts,) = json.loads((await ask(port, "/v1/tallies")).body)["tallies"]
        assert (gifts["sum"], gifts["rev"], gifts["adds"]) == ("0", 0, 0)
