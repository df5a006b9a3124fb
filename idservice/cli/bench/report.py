"""The report of a run: lines to read, JSON, and the faults that make the run fail."""

from dataclasses import dataclass
from typing import Any

from idservice.cli.bench.load import SECOND, Plan
from idservice.cli.bench.results import BenchResults, Histogram
from idservice.web.schemas import IdRanges

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
LATE_NS = 1_000_000  # allowed delay of the load itself, at the 99th percentile


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The result of a run; `before` and `after` are answers of the service, if it gave any."""

    url: str
    plan: Plan
    results: BenchResults
    unordered: bool
    before: IdRanges | None
    after: IdRanges | None = None

    @property
    def seconds(self) -> float:
        """The measured time, without the warm-up."""
        return max(1, self.results.end - self.results.begin) / SECOND

    @property
    def order(self) -> str:
        """The order that was checked, or the reason why none was."""
        before, after = self.before, self.after
        if self.unordered:
            return "not checked: --unordered"
        if before is None:
            return "not checked: the answers do not name the kind of the counter"
        strict = before.mode == "strict"
        if not strict and any(block.step > 1 for block in before.ranges):
            return "not checked: the counter has shards"
        if after is None:
            return "not checked: the epoch of the counter at the end is not known"
        if after.epoch != before.epoch:
            return f"not checked: the counter's epoch went from {before.epoch} to {after.epoch}"
        return "strict over all connections" if strict else "rising on each connection"

    @property
    def _order_is_broken(self) -> bool:
        return self.results.order.faults > 0 and not self.order.startswith("not checked")

    def faults(self) -> list[str]:
        """Return the faults that make the run fail, a line each."""
        results = self.results
        found = []
        if results.distinct.repeated:
            found.append(
                f"DUPLICATE: {_some(results.distinct.examples, results.distinct.repeated)} came"
                " more than once"
            )
        if self._order_is_broken:
            id, above = results.order.examples[0]
            where = "" if results.one_order else " on the same connection"
            hint = "" if results.one_order else (
                "; behind a load balancer or a sidecar no order is promised: --unordered"
            )  # fmt: skip
            found.append(
                f"ORDER: id {id} was asked for after {above} had come{where}, one of"
                f" {results.order.faults:,} such{hint}"
            )
        if results.unreadable:
            found.append(
                f"UNREADABLE: {results.unreadable:,} answers had status 200 and another body than"
                " asked for, so their ids are not checked"
            )
        if not results.succeeded:
            found.append("no request was answered with ids")
        return found

    def as_json(self) -> dict[str, Any]:
        """Return all figures. Times are in ms, of answers with ids and of requests given up."""
        results = self.results
        return {
            "url": self.url,
            "target": results.ask.target,
            "counter": self.before.counter if self.before else None,
            "mode": self.before.mode if self.before else None,
            "connections": self.plan.connections,
            "rate": self.plan.rate,
            "warmup_s": self.plan.warmup_s,
            "seconds": round(self.seconds, 3),
            "requests": results.requests,
            "requests_per_s": round(results.requests / self.seconds, 1),
            "ids_per_s": round(results.ids / self.seconds, 1),
            "latency_ms": _quantiles(results.latency),
            "generator_late_ms": _quantiles(results.late) if self.plan.rate else None,
            "errors": dict(sorted(results.errors.items())),
            "unanswered": results.unanswered,
            "reconnects": results.reconnects,
            "ids": results.distinct.seen,
            "distinct": results.distinct.seen - results.distinct.repeated,
            "duplicates": results.distinct.repeated,
            "order": self.order,
            "order_faults": results.order.faults,
            "faults": self.faults(),
        }

    def lines(self) -> str:
        """Return the figures as lines to read."""
        results, plan = self.results, self.plan
        what = "closed loop" if plan.rate is None else f"{plan.rate:,} requests/s"
        warm = f" after {plan.warmup_s:g} s of warm-up" if plan.warmup_s else ""
        rows = {
            "load": f"{plan.connections} connections, {what}, {self.seconds:.1f} s{warm}",
            "requests/s": f"{results.requests / self.seconds:,.0f}",
            "ids/s": f"{results.ids / self.seconds:,.0f}",
            "latency": _in_words(results.latency),
        }
        if plan.rate is not None:
            rows["load late by"] = _in_words(results.late)
            if results.late.quantile(0.99) > LATE_NS:
                rows[""] = (
                    "which is part of the latency above: this process was held up, by the rate or"
                    " by other work on this machine"
                )
        if results.errors:
            rows["errors"] = ", ".join(
                f"{n:,} × {kind}" for kind, n in results.errors.most_common()
            )
        if results.unanswered:
            rows["unanswered"] = f"{results.unanswered:,} at the end; their wait is in the latency"
        if results.reconnects:
            rows["reconnects"] = f"{results.reconnects:,}"
        again = results.distinct.repeated
        rows["ids"] = f"{results.distinct.seen:,} checked, " + (
            f"{again:,} of them REPEATED" if again else "all distinct"
        )
        rows["order"] = (
            f"BROKEN: {self.order} was promised" if self._order_is_broken else self.order
        )
        return "\n".join(f"{name:13} {text}" for name, text in rows.items())


def progress(seconds: float, results: BenchResults, rate: float, latency: Histogram) -> str:
    """Return a line about the time since the last one; `rate` is in answers with ids per second."""
    times = (
        f"p50 {_ms(latency.quantile(0.5))}  p99 {_ms(latency.quantile(0.99))}"
        if latency.total
        else "no latency measured"
    )
    return (
        f"{seconds:5.0f} s  {rate:>9,.0f} requests/s  {times}"
        f"  errors {sum(results.errors.values()):,}  duplicates {results.distinct.repeated:,}"
    )


def _quantiles(durations: Histogram) -> dict[str, float]:
    return {name: durations.quantile(share) / 1e6 for name, share in QUANTILES.items()}


def _in_words(durations: Histogram) -> str:
    if not durations.total:
        return "nothing measured"
    return "  ".join(
        f"{name} {_ms(durations.quantile(share))}" for name, share in QUANTILES.items()
    )


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.3f} ms" if ns < 10_000_000 else f"{ns / 1e6:,.1f} ms"


def _some(examples: list[int], total: int) -> str:
    shown = ", ".join(map(str, sorted(set(examples))))
    more = f" and more ({total:,} in all)" if total > len(examples) else ""
    return f"id {shown}{more}" if total == 1 else f"ids {shown}{more}"
