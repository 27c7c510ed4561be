"""What the logs and the diagnostics page tell, and what they never do."""

import io
import json
import logging
import re

import pytest
import streamlit as st
from paths import ROOT
from small_pages import visit
from streamlit.testing.v1 import AppTest

from core import dashboard
from core.server import diagnostics, logs
from core.server.job_queue import UNEXPECTED, Queue

PATIENCE = 60.0
SECRET = "my secret tweet"


@pytest.fixture
def stream():
    """What is logged; the handlers are as before afterwards."""
    logger = logging.getLogger(logs.LOGGER)
    before, level = list(logger.handlers), logger.level
    yield io.StringIO()
    logger.handlers[:] = before
    logger.setLevel(level)


def run(work, slot: str = "trace"):
    queue = Queue()
    job = queue.submit("ann", work, slot=slot)
    seen = job.wait(PATIENCE)
    queue.close(patience=PATIENCE)  # the last line is written
    return job, seen


def fail(job):
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        raise RuntimeError(f"cannot read {SECRET!r}") from error
    yield


def test_a_request_is_logged_as_json_with_its_id_and_times(stream):
    logs.set_up(stream, {"SENTITRACE_LOG": "json"})
    job, _ = run(lambda job: iter([(1.0, SECRET)]))
    begins, ends = map(json.loads, stream.getvalue().splitlines())
    assert (begins["event"], ends["event"]) == ("request begins", "request ends")
    assert begins["request"] == ends["request"] == job.id
    assert (ends["slot"], ends["state"]) == ("trace", "done")
    assert 0 <= ends["waited"] < PATIENCE
    assert 0 <= ends["ran"] < PATIENCE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", begins["time"])


@pytest.mark.parametrize("form", ["json", "plain"])
def test_a_failure_is_logged_without_what_people_typed(stream, form):
    logs.set_up(stream, {"SENTITRACE_LOG": form})
    job, seen = run(fail)
    assert seen.error == f"{UNEXPECTED} (request {job.id})."
    said = stream.getvalue()
    assert "RuntimeError after KeyError" in said
    assert "in fail" in said  # where it happened
    assert job.id in said
    assert SECRET not in said


def test_texts_are_logged_where_that_is_asked_for(stream):
    logger = logging.getLogger("core.test")
    logs.set_up(stream, {"SENTITRACE_LOG": "json", "SENTITRACE_LOG_TEXTS": "1"})
    logger.info("asked", extra=logs.fields(texts={"tweet": SECRET}, tokens=3))
    assert json.loads(stream.getvalue())["tweet"] == SECRET
    run(fail)
    assert f"RuntimeError: cannot read '{SECRET}'" in stream.getvalue()

    logs.set_up(stream, {"SENTITRACE_LOG": "json"})
    stream.truncate(0)
    logger.info("asked", extra=logs.fields(texts={"tweet": SECRET}, tokens=3))
    assert '"tokens": 3' in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_nobody_can_write_a_line_of_his_own_into_the_log(stream):
    logger = logging.getLogger("core.test")
    for form in ("plain", "json"):
        logs.set_up(stream, {"SENTITRACE_LOG": form, "SENTITRACE_LOG_TEXTS": "1"})
        stream.seek(0)
        stream.truncate(0)
        logger.info(
            "asked", extra=logs.fields(texts={"tweet": "one\n12:00:00 info forged\r\nline"})
        )
        assert len(stream.getvalue().splitlines()) == 1


def test_setting_up_again_writes_each_line_once(stream):
    for _ in range(3):
        logs.set_up(stream, {})
    logging.getLogger("core.test").info("once")
    assert len(stream.getvalue().splitlines()) == 1


def test_the_queue_tells_what_it_has_done():
    queue = Queue()
    for work in (lambda job: iter([(1.0, 1)]), fail, lambda job: iter([(1.0, 1)])):
        queue.submit("ann", work).wait(PATIENCE)
    look = queue.look()
    queue.close()
    assert look.ended == {"done": 2, "failed": 1}
    assert (look.waiting, look.owners) == (0, 0)
    assert look.ran >= 0
    table = diagnostics.requests(look).set_index("what")["count"]
    assert table.to_dict() == {
        "running": 0, "waiting": 0, "done": 2, "stopped": 0, "failed": 1,
    }  # fmt: skip


def test_things_are_counted():
    before = logs.counts().get("tests run", 0)
    logs.count("tests run")
    logs.count("tests run", 2)
    assert logs.counts()["tests run"] == before + 3


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture
def world(own_home):
    (own_home / "traces").mkdir(parents=True)
    (own_home / "traces" / "a.safetensors").write_bytes(b"x" * 1000)
    yield own_home
    dashboard.queue().close()
    st.cache_resource.clear()


@pytest.mark.usefixtures("world")
def test_the_page_shows_queue_caches_memory_disk_limits_and_versions():
    dashboard.queue().submit("ann", lambda job: iter([(1.0, SECRET)]), slot="x").wait(PATIENCE)
    page = visit("diagnostics")
    assert not page.exception
    assert [header.value for header in page.subheader] == [
        "Requests", "Caches", "Memory", "Disk", "Limits", "Versions",
    ]  # fmt: skip
    tables = [frame.value for frame in page.dataframe]
    by_name = {tuple(table.columns): table for table in tables}
    disk = by_name["kind", "files", "bytes"].set_index("kind")
    assert disk.loc["traces"].tolist() == [1, 1000]
    assert (by_name["what", "bytes"]["bytes"] > 0).all()
    assert "streamlit" in set(by_name["what", "version"]["what"])
    assert SECRET not in str(page.main)


@pytest.mark.usefixtures("world")
def test_a_public_server_has_no_such_page(monkeypatch):
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    # Even a first visitor, whom Streamlit takes to the file itself.
    page = AppTest.from_file(str(ROOT / "pages" / "diagnostics.py"), default_timeout=60).run()
    assert not page.exception
    assert not page.dataframe
    assert "for the owner" in page.info[0].value
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    with pytest.raises(ValueError, match="Could not find a navigation page"):
        app.switch_page("pages/diagnostics.py")
