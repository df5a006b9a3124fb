"""The tries of one call about a tally, on a clock of its own."""

from random import Random

import pytest

from idservice import errors
from idservice.client.protocol import NoUsableAnswer, Refused, Reply
from idservice.client.tally_calls import NEW_KEY, TallyCalls
from idservice.client.tally_protocol import TallyAsk

URL = "http://c:1"
NOTHING = NoUsableAnswer(url=URL, why="it took too long")


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tries(answer: Reply | NoUsableAnswer, *, each_s: float | None = None) -> list[TallyAsk]:
    """The tries of a call of 2 s whose every try gets this answer, after `each_s` or its limit."""
    time, asked = Time(), list[TallyAsk]()
    steps = TallyCalls("gifts", URL, limit_s=2.0, clock=time, random=Random(1)).add("1", NEW_KEY)
    step = steps.send(None)
    with pytest.raises(errors.AddUnsettled) as raised:
        while True:
            if isinstance(step, float):
                time.now += step
                step = steps.send(None)
            else:
                asked.append(step)
                time.now += step.limit_s if each_s is None else each_s
                step = steps.send(answer)
    assert time.now <= 102.0
    assert raised.value.key == asked[0].key
    return asked


def test_a_silent_instance_leaves_time_for_another() -> None:
    asked = tries(NOTHING)
    assert [round(each.limit_s, 1) for each in asked] == [1.0, 0.5, 0.5]


def test_tries_that_fail_at_once_do_not_become_a_flood() -> None:
    asked = tries(NOTHING, each_s=0.0)
    assert 5 <= len(asked) <= 9
    assert len({(each.key, each.body, each.target) for each in asked}) == 1


def test_a_pause_that_the_service_names_is_kept() -> None:
    body = (
        b'{"type": "urn:idservice:problem:rate_exceeded", "code": "rate_exceeded",'
        b' "retryable": true, "outcome": "not_applied", "detail": "later"}'
    )
    asked = tries(Reply(429, "application/problem+json", body, retry_after="1"), each_s=0.0)
    assert len(asked) == 2


def test_the_last_failure_is_the_reason() -> None:
    with pytest.raises(errors.AddUnsettled, match=r"gave no readable answer \(it took too long\)"):
        steps = TallyCalls("gifts", URL, limit_s=0.0, clock=Time()).add("1", "k")
        steps.send(None)
        steps.send(NOTHING)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_access_key_is_told_at_once_and_says_nothing_of_earlier_adds(status: int) -> None:
    """Also by a service that says `not_applied`, as earlier ones do."""
    body = (
        b'{"type": "urn:idservice:problem:key_not_enough", "code": "key_not_enough",'
        b' "retryable": false, "outcome": "not_applied", "detail": "it was narrowed"}'
    )
    steps = TallyCalls("gifts", URL, limit_s=2.0, clock=Time()).add("1", "k")
    steps.send(None)
    with pytest.raises(Refused, match="it was narrowed") as raised:
        steps.send(Reply(status, "application/problem+json", body))
    assert (raised.value.outcome, raised.value.key) == (errors.UNKNOWN, "k")
