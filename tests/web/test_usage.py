"""The report of usage over HTTP: of the scopes of an admin key, as JSON and as CSV."""

import pytest
from aiohttp.test_utils import make_mocked_request

from idservice import errors
from idservice.client.address import ServiceAddress
from idservice.client.http_async import AsyncTransport
from idservice.core.limits import NUMBER_MAX
from idservice.stores.chained import ChainedStore
from idservice.stores.sqlite.store import SQLiteStore
from idservice.web.usage import UsageRoutes
from tests import usage_samples

from .conftest import Serve, Serving
from .test_contract import assert_problem
from .test_keys import JSON

pytestmark = pytest.mark.parametrize("lane", [False], indirect=True)  # the lane hands all over

SCOPE_RULE = (
    "the scope 'acme*' is not allowed (did you mean `acme.*`?); a scope is a name, a prefix with"
    " `.*` after it, or `*`"
)
OCTOBER = "/v1/usage?from=2026-10-01&to=2026-10-31"


@pytest.fixture
async def used(serve: Serve, tmp_path: object) -> Serving:
    """A service that asks for keys, over a store with usage of two customers."""
    store = SQLiteStore(f"{tmp_path}/ids.db")
    serving = await serve(store=store, asks=True)
    await usage_samples.fill(store.usage)
    return serving


async def test_an_admin_sees_the_usage_of_its_scopes(used: Serving) -> None:
    _, acme = await used.make("admin", "acme.*")
    answer = await used.ask(OCTOBER, headers=acme)
    assert answer.headers["cache-control"] == "no-store"
    report = answer.json
    assert [report[key] for key in ("from", "to", "scope", "final")] == [
        "2026-10-01", "2026-10-31", "acme.*", True,
    ]  # fmt: skip
    assert report["totals"] == {"ids": 92, "adds": 7}
    shown = ("day", "counter", "count", "reserved")
    assert [tuple(row[key] for key in shown) for row in report["usage"]] == [
        ("2026-10-05", "acme.gifts", 7, None),
        ("2026-10-05", "acme.orders", 50, 70),
        ("2026-10-06", "acme.orders", 42, 60),
    ]  # fmt: skip
    assert [(run["day"], run["run"], run["end"]) for run in report["runs"]] == [
        ("2026-10-05", "aaaaaaaaaa", "stop"),
        ("2026-10-05", "bbbbbbbbbb", "open"),
        ("2026-10-06", "aaaaaaaaaa", "midnight"),
    ]
    assert report["runs"][0]["first"] == "2026-10-05T12:00:00.000Z"
    assert len(report["notes"]) == 5
    one = await used.ask(f"{OCTOBER}&scope=acme.gifts", headers=acme)
    assert [row["counter"] for row in one.json["usage"]] == ["acme.gifts"]


async def test_a_scope_beyond_the_key_and_a_lower_role_are_refused(used: Serving) -> None:
    _, acme = await used.make("admin", "acme.*")
    _, user = await used.make("use", "acme.*")
    for scope in ("acme2.*", "*", "acme2.orders", "acme"):
        answer = await used.ask(f"{OCTOBER}&scope={scope}", headers=acme)
        assert_problem(answer, 403, "key_not_enough")
    assert_problem(await used.ask(OCTOBER, headers=user), 403, "key_not_enough")
    assert_problem(await used.ask(OCTOBER), 401, "key_missing")


async def test_a_number_that_a_browser_would_round_is_a_string(used: Serving) -> None:
    _, every = await used.make("admin", "*")
    report = (await used.ask(f"{OCTOBER}&scope=acme2.*", headers=every)).json
    assert report["usage"][0]["count"] == report["totals"]["ids"] == str(NUMBER_MAX + 1)


@pytest.mark.parametrize(
    ("query", "accept"),
    [("&format=csv", "*/*"), ("", "text/csv"), ("", "text/csv;q=0.9, application/json;q=0.1")],
)
async def test_the_report_is_csv_where_that_is_asked_for(
    used: Serving, query: str, accept: str
) -> None:
    _, acme = await used.make("admin", "acme.*")
    answer = await used.ask(OCTOBER + query, headers={**acme, "Accept": accept})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.text == usage_samples.CSV


@pytest.mark.parametrize("accept", ["text/csv;q=0.5, application/json", "*/*", "image/png", ""])
async def test_the_report_is_json_where_that_is_preferred(used: Serving, accept: str) -> None:
    _, acme = await used.make("admin", "acme.*")
    answer = await used.ask(OCTOBER, headers={**acme, "Accept": accept})
    assert answer.headers["content-type"].startswith("application/json")


async def test_without_days_the_report_is_about_this_month(used: Serving) -> None:
    _, every = await used.make("admin", "*")
    report = (await used.ask("/v1/usage", headers=every)).json
    assert report["from"].endswith("-01")
    assert (report["usage"], report["final"]) == ([], False)
    assert (await used.ask("/v1/usage?to=2026-10-06", headers=every)).json["from"] == "2026-10-01"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("from=2026-10-32", "its first day is '2026-10-32'; write a day since 1970 as 2026-10-31"),
        ("to=20261031", "its last day is '20261031'; write a day since 1970 as 2026-10-31"),
        ("to=", "its last day is ''; write a day since 1970 as 2026-10-31"),
        ("to=1969-12-31", "its last day is '1969-12-31'; write a day since 1970 as 2026-10-31"),
        (
            "from=2026-10-02&to=2026-10-01",
            "its first day, 2026-10-02, is after its last one, 2026-10-01",
        ),
        ("from=2025-01-01&to=2026-10-01", "it has 639 days; ask for at most 400 at once"),
        (
            "scope=acme*",
            SCOPE_RULE,
        ),
        ("format=xml", "format is 'xml'; it must be json or csv"),
        ("month=2026-10", "it does not read 'month'; it reads from, to, scope, format"),
    ],
)
async def test_a_report_that_cannot_be_is_refused_in_words(
    serving: Serving, query: str, why: str
) -> None:
    answer = await serving.ask(f"/v1/usage?{query}")
    assert_problem(answer, 400, "bad_usage_report")
    assert answer.json["detail"] == f"The usage cannot be reported like this: {why}."


async def test_a_report_changes_nothing_and_takes_no_body(serving: Serving) -> None:
    answer = await serving.ask("/v1/usage", "POST", headers=JSON, body=b"{}")
    assert_problem(answer, 405, "method_not_allowed")
    assert (await serving.ask("/v1/usage", "HEAD")).status == 200


@pytest.mark.usefixtures("lane")
async def test_a_sidecar_says_where_usage_is_counted() -> None:
    store = ChainedStore(AsyncTransport(ServiceAddress.parse("http://127.0.0.1:1")))
    request = make_mocked_request("GET", "/v1/usage")
    with pytest.raises(errors.UsageElsewhere, match=r"http://127\.0\.0\.1:1, which counts them"):
        await UsageRoutes(store).report(request)
