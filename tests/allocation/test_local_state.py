"""The states of a counter on an instance, and the transitions between them."""

import pytest

from idservice import errors
from idservice.allocation.local_state import TRANSITIONS, LocalEvent, LocalState, ServingState

SUSPENDED = errors.Suspended(name="orders")
SUSPECT = errors.CounterSuspect(name="orders", why="it went back")


def test_stopped_is_entered_from_anywhere_and_never_left() -> None:
    for state in LocalState:
        assert TRANSITIONS[state, LocalEvent.STOPPED] is LocalState.STOPPED
    left = {event for state, event in TRANSITIONS if state is LocalState.STOPPED}
    assert left == {LocalEvent.STOPPED}


def test_only_a_confirmation_or_a_newer_epoch_ends_suspicion() -> None:
    ends = {
        event
        for (state, event), after in TRANSITIONS.items()
        if state.name.startswith("SUSPECT") and after in (LocalState.SERVING, LocalState.CLOSED)
    }
    assert ends == {LocalEvent.CONFIRMED, LocalEvent.NEW_EPOCH}


def test_every_state_but_serving_has_a_reason() -> None:
    serving = ServingState("orders")
    assert serving.reason is None
    assert serving.enter(LocalEvent.CLOSED, SUSPENDED)
    assert (serving.state, serving.reason) == (LocalState.CLOSED, SUSPENDED)
    assert serving.enter(LocalEvent.REOPENED)
    assert (serving.state, serving.reason) == (LocalState.SERVING, None)


def test_suspicion_is_told_while_a_counter_is_closed() -> None:
    serving = ServingState("orders")
    assert serving.enter(LocalEvent.DISTRUSTED, SUSPECT)
    assert serving.enter(LocalEvent.CLOSED, SUSPENDED)
    assert (serving.state, serving.reason) == (LocalState.SUSPECT_CLOSED, SUSPECT)
    assert serving.enter(LocalEvent.REOPENED)
    assert (serving.state, serving.reason) == (LocalState.SUSPECT, SUSPECT)


def test_an_event_that_a_state_does_not_list_changes_nothing() -> None:
    serving = ServingState("orders")
    assert not serving.enter(LocalEvent.CATALOGUE_FOUND)
    assert not serving.enter(LocalEvent.CONFIRMED)
    assert serving.enter(LocalEvent.CLOSED, SUSPENDED)
    assert not serving.enter(LocalEvent.CATALOGUE_LOST, errors.CatalogueStale(seconds=60))
    assert serving.reason is SUSPENDED


@pytest.mark.parametrize("way", [LocalEvent.CONFIRMED, LocalEvent.NEW_EPOCH])
def test_the_end_of_a_suspicion_is_in_the_log(
    caplog: pytest.LogCaptureFixture, way: LocalEvent
) -> None:
    serving = ServingState("orders")
    assert serving.enter(LocalEvent.DISTRUSTED, SUSPECT)
    assert not caplog.records
    assert serving.enter(way)
    assert [record.action for record in caplog.records] == ["counter_trusted"]  # type: ignore[attr-defined]
    assert serving.enter(LocalEvent.CLOSED, SUSPENDED)
    assert serving.enter(LocalEvent.REOPENED)
    assert len(caplog.records) == 1
