"""Takes and judges figures: interleaved rounds, medians, CPU as the OS accounts for it."""

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

ROUNDS = 7
KIB = 1024
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal` is the most that it may be, or with `at_least` the least; None if it has
    no goal. `parts` are the values behind it, for tables and pictures.

    `figure` is None if it could not be taken; `note` then says why.
    """

    what: str
    figure: float | None
    unit: str = ""
    goal: float | None = None
    note: str = ""
    at_least: bool = False
    parts: dict[str, float | str] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """True if the goal is reached; None without a goal or a figure."""
        if self.goal is None or self.figure is None:
            return None
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


def interleaved(
    candidates: Mapping[str, Callable[[], float]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Return the figures of each candidate, taken in turns on the same machine."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            found[name].append(run())
    return found


def ratio(figures: list[float], baseline: list[float]) -> float:
    """Return the median of the ratios of each round."""
    return median(one / other for one, other in zip(figures, baseline, strict=True))


def spread(figures: list[float], form: str = ".3g") -> str:
    """Return the least and the greatest of the rounds, for a note."""
    return f"{min(figures):{form}}–{max(figures):{form}}"


def short(figure: float) -> str:
    """Return a figure to three digits, for people."""
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.3g}"


def check(holds: bool, what: str) -> None:
    """Check a result of a benchmark. Raises SystemExit: its figure would mean nothing."""
    if not holds:
        raise SystemExit(f"benchmark check failed: {what}")


def distinct(ids: list[int]) -> None:
    """Check that no id was handed out twice."""
    check(len(set(ids)) == len(ids) > 0, f"{len(ids)} ids, {len(set(ids))} of them distinct")


# --- the machine ----------------------------------------------------------------------------------


@cache  # as at the start: later this process is held to the core for load
def cores() -> tuple[int, int]:
    """Return a core for servers and one for load; the same if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def machine() -> str:
    """Return a description of the machine."""
    cpus = sorted(os.sched_getaffinity(0))
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{len(cpus)} cores ({model}), {platform.system()} {platform.machine()},"
        f" {platform.python_implementation()} {platform.python_version()},"
        f" load {os.getloadavg()[0]:.1f}"
    )


def supported() -> str:
    """Return why this machine cannot take the figures; empty if it can."""
    return "" if sys.platform == "linux" else "needs Linux: /proc and CPU affinity"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, in seconds: see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def cpu_seconds_of_all(pid: int) -> float:
    """Return the CPU time of a process and of all that it started, also those that have ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]  # of the ended
    ended = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return cpu_seconds(pid) + ended + sum(cpu_seconds_of_all(int(child)) for child in children)


def resident_mb(pid: int) -> float:
    """Return the physical memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB / MB
    raise ValueError(f"no VmRSS of process {pid}")
