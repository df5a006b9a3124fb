"""The pages keep the rules of prose: links lead somewhere, lines are short, old words are gone."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(
    [
        README,
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        ROOT / "deploy" / "README.md",
        ROOT / "benchmarks" / "README.md",
        *ROOT.glob("docs/**/*.md"),
    ]
)
LINE_MAX = 120
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
# Words that the glossary replaced, as they stood in the code.
OLD_NAMES = set(
    re.findall(
        r"\w+",
        "Supply Refill Judge Reservations Asked Batches LeftAlone Holding Account Line Linger Watch"
        " Finisher Changer Mover Recognition Wish Stand Standing Reading Silence Central"
        " Wires Place Stock Unanswered Lane Lanes Desk Heads Form Gate Sampled Parent Whole Balance"
        " Seat Board Where Shown Told Ask Collect",
    )
)
OLD_PHRASES = re.compile(
    r"\b(whoever|somebody|so many|by then|of late|of its own|is no number|lent"
    r"|standing counters?|in doubt about|the pulse|newcomers?)\b",
    re.IGNORECASE,
)

pytestmark = pytest.mark.skipif(
    not README.exists() or not (ROOT / "docs").exists(),
    reason="an installation without the pages beside it",
)


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are outside of fenced code."""
    fenced = False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


@cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found: dict[str, int] = {}
    for line in prose(page):
        if not (heading := re.match(r"#{1,6} (.*)", line)):
            continue
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        times = found[anchor] = found.get(anchor, -1) + 1
        found.setdefault(f"{anchor}-{times}" if times else anchor, 0)
    return set(found)


def broken(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for match in LINK.finditer("\n".join(prose(page))):
        link = match[1] or match[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_links_lead_somewhere(self, page: Path) -> None:
        assert not list(broken(page))

    def test_lines_are_short(self, page: Path) -> None:
        long = [
            n for n, line in enumerate(page.read_text().splitlines(), 1) if len(line) > LINE_MAX
        ]
        assert not long

    def test_old_names_are_gone(self, page: Path) -> None:
        text = "\n".join(prose(page))
        spans = set(re.findall(r"`([A-Z]\w+)[^`]*`", text))
        assert not spans & OLD_NAMES

    def test_old_words_are_gone(self, page: Path) -> None:
        assert not OLD_PHRASES.findall("\n".join(prose(page)))

    def test_a_list_begins_after_an_empty_line(self, page: Path) -> None:
        """The site would make one paragraph of it."""
        lines = list(prose(page))
        item = re.compile(r"([*-]|\d+\.) ")
        begun = [
            line
            for before, line in pairwise(lines)
            if item.match(line) and before and not item.match(before) and before[0] not in " #"
        ]
        assert not begun


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n[1](#a-b-c) [2](page.md#a-b-c) [3](#d) [4](gone.md) [5](http://e)\n"
    )
    assert list(broken(page)) == ["#d", "gone.md"]
