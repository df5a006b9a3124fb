"""Log lines as machines and as people read them."""

import io
import json
import logging
import os

import pytest

from idservice.observability import logs
from tests.processes import fill


def logged(form: str, worker: int | None = None, message: str = "so it is") -> str:
    stream = io.StringIO()
    # Not `set_up` with force: that closes the handlers of whoever runs the tests.
    root = logging.getLogger()
    root.handlers[:] = []
    logs.set_up(form, stream, worker=worker)
    logging.getLogger("idservice.test").warning("%s", message, extra={"action": "tested"})
    return stream.getvalue()


def test_a_line_for_machines_has_a_stable_word_and_names_the_worker() -> None:
    line = json.loads(logged("json"))
    assert line.keys() == {"time", "level", "logger", "action", "message"}
    line = json.loads(logged("json", 3))
    assert (line["action"], line["worker"], line["pid"]) == ("tested", 3, os.getpid())


def test_a_line_for_people_names_the_worker() -> None:
    assert logged("text").endswith(" WARNING so it is\n")
    assert logged("text", 3).endswith(" WARNING worker 3: so it is\n")


def test_a_line_for_machines_has_bytes_that_are_not_utf8() -> None:
    line = json.loads(logged("json", message=b"agent \xff".decode(errors="surrogateescape")))
    assert line["message"] == "agent \\udcff"


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", ["http://me:hush@h:1/", "https://hush@h", "//a:hush@b@h/x"])
def test_a_password_in_a_url_is_not_logged(form: str, secret: str) -> None:
    line = logged(form, message=f"failed at '{secret}' for alice@example.com")
    assert "hush" not in line
    assert "//...@h" in line
    assert "alice@example.com" in line
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("idservice.test").exception("a bug")
    for handler in logging.getLogger().handlers:
        assert isinstance(handler, logging.StreamHandler)
        assert "hush" not in handler.stream.getvalue()


def test_a_reader_that_stops_reading_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LINES_MAX", 2)
    read, write = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(write) as kept:
        size = fill(write)
        handler = logs.BackgroundHandler(write)
        logging.getLogger().handlers[:] = [handler]
        log = logging.getLogger("idservice.test")
        log.warning("first")
        while handler._lines:  # until the thread has it, and stands still
            os.sched_yield()
        for number in range(5):
            log.warning("line %d", number)
        handler.flush()  # gives up
        assert logs.dropped() == 3
        assert reading.read(size) == "x" * size
        lines = [reading.readline() for _ in range(3)]
        assert lines == ["first\n", "line 0\n", "line 1\n"], "what was kept is written in order"
        log.warning("%d", "not a number")
        assert reading.readline() == "'%d' cannot be logged with ('not a number',)\n"
        handler.flush()
        assert not handler._lines
        assert kept


def test_lines_that_wait_are_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BYTES_MAX", 5_000)
    read, write = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(write):
        size = fill(write)
        handler = logs.BackgroundHandler(write)
        logging.getLogger().handlers[:] = [handler]
        for _ in range(20):
            logging.getLogger("idservice.test").warning("x" * 1_000)
        assert 10 <= logs.dropped() <= 16
        # The next pipe may have this number: nothing is left to write then.
        reading.read(size + (20 - logs.dropped()) * 1_001)
        handler.flush()
        assert not handler._lines


def test_a_log_that_goes_nowhere_with_stderr_goes_on_once_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, full = os.write, [True]

    def write(descriptor: int, data: bytes) -> int:
        if full[0] and descriptor in (2, end):
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    read, end = os.pipe()
    with os.fdopen(read) as reading, os.fdopen(end):
        monkeypatch.setattr(logs.os, "write", write)
        handler = logs.BackgroundHandler(end)
        logging.getLogger().handlers[:] = [handler]
        logging.getLogger("idservice.test").warning("lost")
        while not handler.dropped:
            os.sched_yield()
        full[0] = False
        logging.getLogger("idservice.test").warning("kept")
        assert reading.readline() == "kept\n"
        handler.flush()


class Full(io.StringIO):
    """A disk that takes nothing more."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_that_nothing_can_be_written_is_said_once_and_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger().handlers[:] = []
    logs.set_up("json", Full())
    for _ in range(3):
        logging.getLogger("idservice.test").warning("so it is")
    said = capsys.readouterr().err
    assert said == "idservice: the log cannot be written: No space left on device\n"
