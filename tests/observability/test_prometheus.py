"""The metrics page is what Prometheus reads, and requests go before each piece of it."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from idservice.observability import prometheus
from idservice.observability.latency import Latency
from idservice.observability.prometheus import LINES
from idservice.observability.readings import CounterStats, Snapshot
from tests.web.scenes import closed, in_trouble, many, reading


def snapshot() -> Snapshot:
    stats = CounterStats(
        {"granted": 2, "late": 1}, {"exhausted": 10**7}, waits=3, wait_seconds=1e-7
    )
    readings = [replace(one, stats=stats) for one in in_trouble()]
    known = {one.counter for one in readings}
    others = [one for one in many(3 * LINES, 1.0) if one.counter not in known]
    return Snapshot([*readings, *others], True, Latency([3], 0.1), "0.1.0")


def test_a_counter_that_an_operator_closed_is_not_short_of_ids() -> None:
    page = b"".join(prometheus.pieces(Snapshot(closed(), True, Latency(), "0.1.0"), counters_max=9))
    for name, runway in (("orders", "45.0"), ("members", "+Inf"), ("tickets", "+Inf")):
        assert f'idservice_runway_seconds{{counter="{name}"}} {runway}\n' in page.decode()


def test_borrowed_ids_that_expired_unused_are_not_missed_while_nobody_asks() -> None:
    """An idle sidecar needed attention, and its runway that fell to 0 paged."""
    idle = replace(reading("idle", borrowed=True, stock=1, low=0), held=0, rate=0.1)
    asked = replace(idle, counter="asked", waiting=3)
    away = reading("away", borrowed=True, code="store_unavailable", why="no answer")
    own = replace(reading("own"), held=0)
    readings = [idle, asked, replace(away, held=0), own]
    page = b"".join(prometheus.pieces(Snapshot(readings, True, Latency(), "0.1.0"), counters_max=9))
    for name, runway in (("idle", "+Inf"), ("asked", "0.0"), ("away", "0.0"), ("own", "0.0")):
        assert f'idservice_runway_seconds{{counter="{name}"}} {runway}\n' in page.decode()


class Again(Collector):
    """What was read, to be written by the library."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def test_what_is_written_is_read_as_what_the_library_would_have_written() -> None:
    shown = snapshot()
    body = b"".join(prometheus.pieces(shown, counters_max=1000)).decode()
    families = list(text_string_to_metric_families(body))
    assert len({family.name for family in families}) == len(families), "each is in one piece"
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(values) == sum(not line.startswith("#") for line in body.splitlines())
    for one in shown.readings:
        assert values["idservice_ids_issued_total", ("counter", one.counter)] == one.issued
        assert values["idservice_ids_in_memory", ("counter", one.counter)] == one.held
    assert values["idservice_gap_ids_total", ("cause", "unknown"), ("counter", "invoices")] == 400
    assert values["idservice_refusals_total", ("code", "exhausted"), ("counter", "votes")] == 1e7
    assert values["idservice_wait_seconds_total", ("counter", "votes")] == 1e-7
    assert values["idservice_runway_seconds", ("counter", "votes")] == inf
    for family in families:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Again(family))
        again = generate_latest(registry).decode()
        read = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for one in text_string_to_metric_families(again)
            for sample in one.samples
        }
        assert read.items() <= values.items()
        if family.name != "idservice_build":  # which is no family of its own in this format
            assert again.splitlines()[:2] == [
                line for line in body.splitlines() if line.split(" ")[2:3] == again.split(" ")[2:3]
            ]


def test_no_piece_holds_more_counters_than_are_quickly_written() -> None:
    for piece in prometheus.pieces(snapshot(), counters_max=1000):
        named = [line for line in piece.decode().splitlines() if 'counter="' in line]
        assert len({line.partition('counter="')[2].partition('"')[0] for line in named}) <= LINES


def test_without_counters_every_family_is_named_all_the_same() -> None:
    nothing = Snapshot([], True, Latency(), "0.1.0")
    body = b"".join(prometheus.pieces(nothing, counters_max=10)).decode()
    assert body.count("# TYPE") == len(list(text_string_to_metric_families(body))) >= 15


def test_refusals_of_keys_are_counted_by_code_and_by_no_key() -> None:
    refusals = {"key_unknown": 3, "key_not_enough": 1}
    snapshot = Snapshot([], True, Latency(), "1", key_refusals=refusals)
    page = b"".join(prometheus.pieces(snapshot, counters_max=1)).decode()
    assert [line for line in page.splitlines() if "idservice_key_refusals_total{" in line] == [
        'idservice_key_refusals_total{code="key_not_enough"} 1.0',
        'idservice_key_refusals_total{code="key_unknown"} 3.0',
    ]
