"""Callers of ids read nothing that only operators may know: no table, endpoint, path or account."""

import pytest

from idservice import errors
from idservice.allocation.context import Limits
from idservice.core.gap_causes import GapCause
from idservice.stores.records import Counter
from idservice.web.caller_words import caller_words
from tests.docs.generate import every_error_class
from tests.web.conftest import Serve, Serving
from tests.web.wire import Answer

TOLD = "dynamodb:ids?region=eu-west-1&endpoint=http://10.0.0.7:8000"
ACCOUNT = "arn:aws:iam::123456789012:user/x"
FIELDS = {"store": TOLD, "why": f"{TOLD} {ACCOUNT}", "found": TOLD, "item": TOLD, "action": TOLD}
AWAY = errors.NotApplied(store=TOLD, action=f"dynamodb:GetItem on {TOLD}", why=ACCOUNT)


def assert_no_details(text: str) -> None:
    for part in ("dynamodb", "eu-west", "10.0.0.7", "ids?", "123456789012"):
        assert part not in text, text


async def fails(*_: object, **__: object) -> Counter:
    raise AWAY


@pytest.fixture
async def away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Serving:
    """A service whose store fails."""
    serving = await serve(limits=Limits(wait=0.05))
    for name in ("counter", "counters", "page", "reserve", "verify"):
        monkeypatch.setattr(serving.store, name, fails)
    return serving


def refused(answer: Answer, code: str) -> str:
    assert answer.json["code"] == code
    return answer.text


async def test_a_failed_store_is_not_described_to_callers(away: Serving) -> None:
    late = await away.ask("/v1/counters/late/next")
    assert_no_details(refused(late, "store_unavailable"))
    for target in ("/next", "/next?count=5", "/next?format=json"):
        assert_no_details(refused(await away.ask(target), "store_unavailable"))
    assert_no_details(refused(await away.ask("/readyz"), "not_ready"))


async def test_a_failed_store_is_described_on_the_control_plane(away: Serving) -> None:
    for target in ("/v1/counters", "/v1/counters/late"):
        assert TOLD in (await away.ask(target)).json["detail"]


@pytest.mark.parametrize("code", ["waited_too_long", "counter_suspect", "store_replaced"])
async def test_a_counter_in_use_is_refused_without_details(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    serving = await serve()
    local = await serving.service.local_counter("default")
    object.__setattr__(serving.service.limits, "wait", 0.05)
    if code == "waited_too_long":
        monkeypatch.setattr(serving.store, "reserve", fails)
    elif code == "counter_suspect":
        local.on_refusal(errors.WentBack(epoch="b", name="default", store=TOLD,
                                         position=1, above=TOLD))  # fmt: skip
    else:
        local.stop(errors.StoreReplaced(store=TOLD, why=ACCOUNT), cause=GapCause.WENT_BACK)
    for target in ("/next", "/next?count=20000&format=ranges"):
        assert_no_details(refused(await serving.ask(target), code))
    ready = await serving.ask("/readyz")
    assert_no_details(ready.text)
    assert (ready.status == 503) == (code != "waited_too_long" or b"degraded" not in ready.body)


def test_no_error_with_a_store_is_worded_with_it() -> None:
    """`why` of what a caller sent is about that; of what a store said, it is not for callers."""
    kinds = [kind for kind in every_error_class() if "{store}" in kind.text]
    kinds += [errors.Moved, errors.CounterSuspect, errors.WaitedTooLong, errors.AddUnsettled]
    assert len(kinds) > 15
    for kind in kinds:
        error = kind.__new__(kind)
        error.fields = {**FIELDS, "name": "orders", "key": "a", "seconds": 2.0}
        assert_no_details(caller_words(error))
