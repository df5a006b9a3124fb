"""The site is built of all pages, and a browser that shows it asks no other host for anything."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A link that a reader may follow is no matter; what a page loads by itself is.
LOADED = re.compile(r"<(?:script|link|img|source|iframe)\b[^>]*?(?:src|href|srcset)=\"([^\"]+)\"")
ELSEWHERE = re.compile(r"(?:https?:)?//")


@pytest.mark.process
@pytest.mark.skipif(not (ROOT / "docs/mkdocs.yml").exists(), reason="an installation without pages")
def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pages, site = tmp_path / ".site", tmp_path / "site"
    shutil.copytree(ROOT / "docs", pages / "docs")
    for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"):
        shutil.copy(ROOT / name, pages / name)
    for folder in ("deploy", "benchmarks"):
        (pages / folder).mkdir()
        shutil.copy(ROOT / folder / "README.md", pages / folder)
    (tmp_path / "docs").mkdir()
    configuration = shutil.copy(ROOT / "docs/mkdocs.yml", tmp_path / "docs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", configuration],
        env={"PATH": ""}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (site / "docs" / "glossary.html").exists()
    for page in site.rglob("*.html"):
        loaded = LOADED.findall(page.read_text())
        assert loaded
        assert not [name for name in loaded if ELSEWHERE.match(name)]
    for style in site.rglob("*.css"):
        named = re.findall(r"url\(['\"]?([^)'\"]+)", style.read_text())
        assert not [name for name in named if ELSEWHERE.match(name)]
