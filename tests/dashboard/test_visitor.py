"""Who is asking, and is he still there? Also of a Streamlit that does not tell."""

from types import SimpleNamespace

import pytest
import streamlit as st
from playwright.sync_api import expect
from served import browse, serve
from streamlit.runtime import scriptrunner
from streamlit.testing.v1 import AppTest

from core.dashboard import visitor


@pytest.mark.browser
def test_a_tab_that_is_closed_is_known_to_be(chromium, tmp_path):
    with (
        serve(tmp_path / "home", "tests/support/tabs_page.py") as address,
        browse(chromium) as browser,
    ):
        first, second = browser.new_page(), browser.new_page()
        for page, tabs in ((first, 1), (second, 2)):
            page.goto(address)
            text = f"{tabs} of {tabs} tabs are open"
            expect(page.get_by_text(text)).to_be_visible(timeout=120_000)
        first.close()
        expect(second.get_by_text("1 of 2 tabs are open")).to_be_visible()


def named() -> None:
    import streamlit as st

    from core.dashboard import visitor

    st.text(visitor.session_id())
    st.text(visitor.open_tab(visitor.session_id())())


@pytest.fixture(params=["as it is", "nothing of the session", "nothing of the server"])
def streamlit_tells(request, monkeypatch):
    if request.param == "nothing of the session":
        monkeypatch.delattr(scriptrunner, "get_script_run_ctx")
    if request.param == "nothing of the server":
        # Of Streamlit itself nothing may be missing: it runs the page.
        monkeypatch.setattr(visitor, "st", SimpleNamespace(session_state=st.session_state))
        assert not visitor.on_server()
    visitor._say_once.cache_clear()


def test_a_session_has_one_name_and_its_tab_is_open(streamlit_tells):
    ann, ben = (AppTest.from_function(named, default_timeout=60).run() for _ in range(2))
    name = ann.text[0].value
    assert name
    assert ann.text[1].value == "True"
    assert ann.run().text[0].value == name
    assert not ann.exception
    if hasattr(scriptrunner, "get_script_run_ctx"):
        return  # all of AppTest's sessions have the same name
    assert ben.text[0].value != name


def test_outside_a_server_nobody_leaves(monkeypatch):
    monkeypatch.setattr(visitor, "GRACE", 0.0)
    assert not visitor.on_server()
    assert visitor.open_tab("nobody")()


def test_a_server_that_calls_a_visitor_gone_who_asks_is_not_believed(monkeypatch, caplog):
    never = SimpleNamespace(is_active_session=lambda session: False)
    monkeypatch.setattr(st.runtime, "get_instance", lambda: never)
    monkeypatch.setattr(st.runtime, "exists", lambda: True)
    monkeypatch.setattr(visitor, "GRACE", 0.0)
    visitor._say_once.cache_clear()
    assert all(visitor.open_tab("ann")() for _ in range(3))
    assert caplog.messages == [
        "Streamlit does not tell whose tab is open: work goes on when a tab is closed"
    ]


def test_a_connection_may_be_lost_for_a_moment(monkeypatch):
    connected = {"ann": True}
    runtime = SimpleNamespace(is_active_session=lambda session: connected[session])
    monkeypatch.setattr(st.runtime, "get_instance", lambda: runtime)
    seconds = [100.0]
    monkeypatch.setattr(visitor, "monotonic", lambda: seconds[0])
    is_open = visitor.open_tab("ann")
    connected["ann"] = False
    seconds[0] += visitor.GRACE / 2
    assert is_open()
    connected["ann"] = True
    assert is_open()
    connected["ann"] = False
    seconds[0] += visitor.GRACE / 2
    assert is_open()
    seconds[0] += visitor.GRACE / 2
    assert not is_open()
