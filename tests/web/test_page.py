"""The status page in a real browser: with and without its script, in both themes, under load."""

import re
from pathlib import Path

import aiohttp
import pytest

from tests.processes import STORE, Serving

from .browser import Browser, Tab
from .scenes import SCENES, Scene, shown, sums

pytestmark = [
    pytest.mark.process, pytest.mark.needs_browser, pytest.mark.xdist_group("browser"),
]  # fmt: skip

# All that is read, but for the time and the button that only the script shows.
READ = """
  [document.title, document.body.dataset.level, ...[...document.querySelectorAll(
    '[data-f], header [id], footer p, .act, .bar, .fill, .low, #found, #page, #after')]
    .filter(e => !e.closest('#live'))
    .map(e => e.textContent + [...e.attributes].map(a => a.name + a.value))]
"""
CHANGED = "document.dispatchEvent(new Event('visibilitychange'))"
# Of what is read: how much its colour stands out from what is behind it (WCAG 2).
CONTRAST = """
(() => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || ['SCRIPT', 'TEMPLATE'].includes(e.tagName)) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) poor.push(e.textContent.slice(0, 30) + ' ' + contrast.toFixed(2));
  }
  return poor;
})()
"""


async def opened(chromium: Browser, url: str, *, scripts: bool = True, **window: object) -> Tab:
    tab = await chromium.tab(scripts=scripts)
    await tab.look(**window)  # type: ignore[arg-type]
    await tab.go(url)
    return tab


async def looked(tab: Tab) -> None:
    """Until the page shows what it was told since."""
    shown_at = "document.getElementById('when').textContent"
    before = await tab.run(shown_at)
    await tab.until(f"{shown_at} !== {before!r}")


# --- what is shown -------------------------------------------------------------------------------


async def test_the_script_changes_nothing_but_what_the_server_says(chromium: Browser) -> None:
    for name, error, tallies in (
        ("trouble", "", sums()), ("forty", "no answer", []), ("one", "", sums()),
        ("nothing", "", []),
    ):  # fmt: skip
        scene = Scene(SCENES["closed"], step=1.0)
        async with shown(scene) as url:
            live = await opened(chromium, url)
            scene.readings, scene.store_error, scene.step = SCENES[name], error, 0.0
            scene.tallies = tallies
            scene.now += 60
            plain = await opened(chromium, url, scripts=False)
            when = "document.getElementById('when').textContent"
            await live.until(f"{when} === {await plain.run(when)!r}")
            assert await live.run(READ) == await plain.run(READ)
            assert plain.complaints == live.complaints == []


async def test_figures_change_as_the_service_does_and_a_line_is_drawn(chromium: Browser) -> None:
    scene = Scene(SCENES["forty"], step=4.0)
    async with shown(scene) as url:
        tab = await opened(chromium, url)
        body = "document.querySelector('#table tbody[data-name=orders]')"
        memory = f"{body}.querySelector('[data-f=memory]').textContent"
        line = f"{body}.querySelector('.line').getAttribute('d') ?? ''"
        seen = set()
        for _ in range(3):
            await looked(tab)
            seen.add(await tab.run(memory))
        assert len(seen) == 3
        path = await tab.run(line)
        assert re.fullmatch(r"M[0-9.]+ [0-9.]+(L[0-9.]+ [0-9.]+){2,}", path), path
        assert tab.complaints == []


async def test_a_counter_that_turns_suspect_comes_to_the_top_and_is_said_aloud(
    chromium: Browser,
) -> None:
    scene = Scene(SCENES["forty"], step=1.0)
    async with shown(scene) as url:
        tab = await opened(chromium, url)
        first = "document.querySelector('#table tbody').dataset.name"
        assert await tab.run(first) == "bookings"
        scene.readings = SCENES["trouble"]
        await tab.until(f"{first} === 'invoices'")
        assert await tab.run("document.getElementById('verdict').getAttribute('role')") == "status"
        assert await tab.run("document.title") == "(4) idservice"
        row = "document.querySelector('#table tbody').textContent"
        assert "idservice fence invoices --past N" in await tab.run(row)
        scene.readings = SCENES["one"]
        await tab.until("document.querySelectorAll('#table tbody').length === 1")
        scene.readings = SCENES["nothing"]
        await tab.until("document.getElementById('table').hidden")
        assert await tab.run("document.getElementById('empty').checkVisibility()")
        assert tab.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_everything_can_be_read_in_both_themes(chromium: Browser, dark: bool) -> None:
    for width in (1280, 390):
        scene = Scene(SCENES["trouble"], store_error="no answer", tallies=sums())
        async with shown(scene) as url:
            tab = await opened(chromium, url, width=width, dark=dark)
            background = await tab.run("getComputedStyle(document.body).backgroundColor")
            assert (int(background[4:].split(",")[0]) < 128) == dark
            assert await tab.run(CONTRAST) == []
            assert await tab.run("document.documentElement.scrollWidth") <= width, "it is too wide"


async def test_a_reader_hears_a_table_whose_cells_have_their_headers(chromium: Browser) -> None:
    for width in (1280, 390):
        async with shown(Scene(SCENES["trouble"], tallies=sums())) as url:
            tab = await opened(chromium, url, width=width, scripts=False)
            await tab.do("Accessibility.enable")
            nodes = (await tab.do("Accessibility.getFullAXTree"))["nodes"]
            roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
            assert roles.count("table") == 2
            assert roles.count("columnheader") == 8 + 7
            assert roles.count("rowheader") == await tab.run(
                "document.querySelectorAll('tbody').length"
            )
            assert {"heading", "searchbox", "button", "main"} <= set(roles)


# --- how it behaves ------------------------------------------------------------------------------


async def test_it_polls_while_it_is_seen_and_until_it_is_paused(chromium: Browser) -> None:
    scene = Scene(SCENES["one"], step=1.0)
    async with shown(scene) as url:
        tab = await opened(chromium, url)
        await looked(tab)
        await tab.run("document.getElementById('pause').focus()")
        await tab.press("Enter", "\r")
        await tab.until("document.getElementById('pause').textContent === 'Go on'")
        await tab.run("new Promise(done => setTimeout(done, 200))")  # one may be under way
        looks = scene.looks
        await tab.run("new Promise(done => setTimeout(done, 1300))")
        assert scene.looks == looks
        await tab.press("Enter", "\r")
        await looked(tab)
        hide = "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        await tab.run(hide + CHANGED)
        await tab.run("new Promise(done => setTimeout(done, 200))")
        looks = scene.looks
        await tab.run("new Promise(done => setTimeout(done, 1300))")
        assert scene.looks == looks
        await tab.run(f"delete document.hidden; {CHANGED}")
        await looked(tab)


async def test_a_service_that_is_away_is_said_so_and_found_again(chromium: Browser) -> None:
    scene = Scene(SCENES["forty"], step=1.0)
    async with shown(scene) as url:
        tab = await opened(chromium, url)
        await looked(tab)
        scene.away = True
        said = "document.getElementById('live').textContent"
        await tab.until(f"{said}.includes('no answer since')")
        assert await tab.run("document.querySelectorAll('#table tbody').length") == 40
        scene.away = False
        await tab.until(f"{said}.includes('as of')")


async def test_pages_and_names_are_found_without_a_script_and_polled_with_one(
    chromium: Browser,
) -> None:
    async with shown(Scene(SCENES["thousand"])) as url:
        for scripts in (False, True):
            tab = await opened(chromium, url, scripts=scripts)
            rows = "document.querySelectorAll('#table tbody').length"
            assert await tab.run(rows) == 50
            first = await tab.run("document.querySelector('#table tbody').dataset.name")
            tab.loaded.clear()
            await tab.run("document.getElementById('after').click()")
            await tab.loaded.wait()
            page = "document.getElementById('page').textContent"
            assert await tab.run(page) == "Page 2 of 20"
            assert await tab.run("document.querySelector('#table tbody').dataset.name") != first
            tab.loaded.clear()
            await tab.run("document.getElementById('find').value = 'orders-7'")
            await tab.run("document.querySelector('form').requestSubmit()")
            await tab.loaded.wait()
            assert await tab.run(rows) == 11
            if scripts:
                await tab.until("performance.getEntriesByType('resource').length > 1")
                assert any("?find=orders-7" in asked for asked in tab.asked)
            assert tab.complaints == []


# --- a real service ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_page_of_a_service_under_load_shows_it_and_uses_no_id(
    chromium: Browser, folder: Path, workers: str
) -> None:
    with Serving(folder, "--store", STORE, "--workers", workers) as serving:
        url = f"http://127.0.0.1:{serving.port}"
        async with aiohttp.ClientSession() as session:

            async def take() -> int:
                async with session.get(f"{url}/next") as answer:
                    assert answer.status == 200, await answer.text()
                    return int(await answer.text())

            async def issued() -> int:
                async with session.get(f"{url}/v1/status") as answer:
                    return int((await answer.json())["issued"])

            ids = [await take()]
            tab = await opened(chromium, f"{url}/")
            memory = "document.querySelector('[data-name=default] [data-f=memory]').textContent"
            seen = set()
            while len(seen) < 3:
                ids += [await take() for _ in range(50)]
                await looked(tab)
                seen.add(await tab.run(memory))
            assert len(set(ids)) == len(ids)
            said = await tab.run("document.getElementById('workers').textContent")
            assert said == ("2 workers" if workers == "2" else "1 worker")
            await tab.until("performance.getEntriesByType('resource').length > 2")
            assert await issued() == len(ids), "the page used ids"
            assert tab.complaints == []
            assert {asked.removeprefix(url) for asked in tab.asked if "data:" not in asked} == {"/"}
        serving.terminate()
        assert serving.end() == 0
