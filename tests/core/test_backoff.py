"""The pause after failures in a row."""

from idservice.core.backoff import pause


def test_a_pause_doubles_up_to_its_most() -> None:
    pauses = [pause(failures, first_s=0.1, max_s=1.0) for failures in range(1, 2000)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert set(pauses[4:]) == {1.0}


def test_a_pause_is_spread_over_its_upper_half() -> None:
    assert pause(3, first_s=0.1, max_s=1.0, spread=0.0) == 0.2
    assert pause(3, first_s=0.1, max_s=1.0, spread=0.5) == 0.4 * 0.75
