"""Pictures of figures, as SVG that is readable on light and on dark pages.

`python -m benchmarks.picture [RESULTS.json] [--folder docs]` draws the pictures of a run again.
"""

import argparse
import importlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from benchmarks.measure import Row, short

ROOT = Path(__file__).parent.parent
WIDTH = 760
MARGIN = 24
STYLE = """<style>
.card{fill:#fff;stroke:#d8dee4}.t{fill:#1f2328}.m{fill:#59636e}.b{fill:#a9b4c0}.h{fill:#0a7d5a}
.g{stroke:#e3e7eb}.x{stroke:#c4362a;stroke-width:2;stroke-dasharray:5 4}.xt{fill:#c4362a}.xz{fill:#c4362a;opacity:.08}
.l{fill:none;stroke-width:3;stroke-linejoin:round}.s0{stroke:#b3541e}.s1{stroke:#3b6fb5}.s2{stroke:#0a7d5a}
.f0{fill:#b3541e}.f1{fill:#3b6fb5}.f2{fill:#0a7d5a}
text{font:13px system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.title{font-size:17px;font-weight:600}.bold{font-weight:600}.n{stroke:#fff;stroke-width:5px;paint-order:stroke}
@media(prefers-color-scheme:dark){.card{fill:#161b22;stroke:#30363d}.t{fill:#e6edf3}.m{fill:#9198a1}
.b{fill:#57606a}.h{fill:#2fbf8f}.g{stroke:#2b3138}.x{stroke:#ff7b72}.xt{fill:#ff7b72}.xz{fill:#ff7b72}.n{stroke:#161b22}
.s0{stroke:#f0975a}.s1{stroke:#79b0f2}.s2{stroke:#2fbf8f}.f0{fill:#f0975a}.f1{fill:#79b0f2}.f2{fill:#2fbf8f}}
</style>"""  # noqa: E501


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `goal` is marked on it, `said` is shown in place of the value and its unit."""

    name: str
    value: float
    highlight: bool = False
    goal: float | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line through points whose numbers are all above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(
    rows: Sequence[Bar], *, title: str, subtitle: str = "", unit: str = "", note: str = ""
) -> str:
    """Return horizontal bars from 0, in the order of the rows."""
    most = max(max(row.value, row.goal or 0.0) for row in rows) or 1.0
    left = MARGIN + 14 + round(max(len(row.name) for row in rows) * 7.6)
    scale = (WIDTH - MARGIN - 92 - left) / most
    parts, y = _head(title, subtitle), 84
    for row in rows:
        style, bold = ("h", " bold") if row.highlight else ("b", "")
        length = max(2.0, row.value * scale)
        said = row.said or f"{short(row.value)} {unit}".rstrip()
        parts += [
            _text(left - 10, y + 16, row.name, f"t{bold}", "end"),
            f'<rect class="{style}" x="{left}" y="{y}" width="{length:.1f}" height="22" rx="3"/>',
            _text(left + length + 8, y + 16, said, f"t{bold}"),
        ]
        if row.goal is not None:
            at = f"{left + row.goal * scale:.1f}"
            parts.append(f'<path class="x" d="M{at} {y - 4}v30"/>')
        y += 34
    if any(row.goal is not None for row in rows):
        parts.append(_text(left, y + 12, "dashed: the goal", "xt"))
        y += 22
    return _page(parts, y + 8, note)


def lines(
    series: Sequence[Line],
    *,
    title: str,
    subtitle: str,
    x: str,
    limit: tuple[float, str],
    y_unit: str = "",
    note: str = "",
) -> str:
    """Return up to three lines on logarithmic axes, with names, and where they meet `limit`."""
    left, right, top, height = MARGIN + 62, WIDTH - 190, 90, 270
    xs = [point[0] for line in series for point in line.points]
    ys = [limit[0], *(point[1] for line in series for point in line.points)]
    x0, x1 = math.log10(min(xs)), math.log10(max(xs))
    y0, y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 0.1)

    def at_x(value: float) -> float:
        return left + (math.log10(value) - x0) / (x1 - x0) * (right - left)

    def at_y(value: float) -> float:
        return top + (y1 - math.log10(value)) / (y1 - y0) * height

    parts, edge = _head(title, subtitle), at_y(limit[0])
    parts.append(
        f'<rect class="xz" x="{left}" y="{top}" width="{right - left}" height="{edge - top:.1f}"/>'
    )
    for power in range(y0, y1 + 1):
        y = at_y(10.0**power)
        parts += [
            f'<path class="g" d="M{left} {y:.1f}H{right}"/>',
            _text(left - 8, y + 4, f"{10.0**power:,.10g}{y_unit}", "m", "end"),
        ]
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        parts.append(_text(at_x(10.0**power), top + height + 20, f"{10**power:,}", "m", "middle"))
    parts += [
        _text((left + right) / 2, top + height + 42, x, "m", "middle"),
        f'<path class="x" d="M{left} {edge:.1f}H{right}"/>',
        _text(left + 8, edge - 8, limit[1], "xt bold"),
    ]
    ends: list[tuple[float, int, str]] = []
    crossings: list[str] = []
    for number, line in enumerate(series):
        path = "L".join(f"{at_x(a):.1f} {at_y(b):.1f}" for a, b in line.points)
        parts.append(f'<path class="l s{number}" d="M{path}"/>')
        ends.append((at_y(line.points[-1][1]), number, line.name))
        met = _meets(line, limit[0])
        if met is not None:
            crossings += [
                f'<circle class="f{number}" cx="{at_x(met):.1f}" cy="{edge:.1f}" r="5"/>',
                _text(at_x(met) + 6, edge + 20, short(float(f"{met:.2g}")), f"f{number} bold n"),
            ]
    parts += crossings
    free = 0.0
    for y, number, name in sorted(ends):
        free = max(y, free + 18)
        parts.append(_text(right + 10, free + 4, name, f"f{number} bold"))
    return _page(parts, top + height + 56, note)


def _meets(line: Line, limit: float) -> float | None:
    """Return the place where a line rises above a limit, straight between its points; else None."""
    for (x0, y0), (x1, y1) in pairwise(line.points):
        if y0 < limit <= y1:
            part = math.log(limit / y0) / math.log(y1 / y0)
            return math.exp(math.log(x0) + part * math.log(x1 / x0))
    return None


def _head(title: str, subtitle: str) -> list[str]:
    return [_text(MARGIN, 38, title, "t title"), _text(MARGIN, 60, subtitle, "m")]


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _page(parts: list[str], y: float, note: str) -> str:
    if note:
        parts.append(_text(MARGIN, y + 12, note, "m"))
        y += 20
    height = round(y + 14)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    card = f'x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([opening, STYLE, f'<rect class="card" {card}/>', *parts, "</svg>\n"])


# --- from results ---------------------------------------------------------------------------------


def documents(name: str, rows: list[Row]) -> dict[str, str]:
    """Return the files that a benchmark makes of its rows, by name."""
    make = getattr(importlib.import_module(f"benchmarks.{name}"), "documents", None)
    return make(rows) if make is not None and rows else {}


def main() -> int:
    """Draw the pictures of a run again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", help="of a run; the latest")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where they go")
    parsed = parser.parse_args()
    latest = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if parsed.results is None and not latest:
        parser.error("no results yet: run the benchmarks first")
    content = json.loads((parsed.results or latest[-1]).read_text())
    rows = []
    for found in content["rows"]:
        del found["reached"]
        rows.append(Row(**found))
    for name in content["benchmarks"]:
        own = [row for row in rows if row.what.startswith(f"{name}:")]
        for file, text in documents(name, own).items():
            if file.endswith(".svg"):
                (parsed.folder / file).write_text(text)
                print(parsed.folder / file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
