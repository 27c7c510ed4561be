"""Who is asking, and is the tab of his browser still open?

A door into Streamlit, which tells neither in a documented way: the id of a session, and whether the
session is connected, are the server's own. They are asked here alone. Whoever begins work is there,
so a Streamlit that calls his tab closed at that moment, or cannot be asked, is not believed: then
his tab counts as open, and work goes on to its end after he has left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from uuid import uuid4

import streamlit as st

GRACE = 20.0  # seconds that a lost connection may take to come back before its work is stopped

log = logging.getLogger(__name__)


def on_server() -> bool:
    """Whether Streamlit serves visitors in this process; where it does not say, no."""
    runtime = getattr(st, "runtime", None)
    exists = getattr(runtime, "exists", None)
    return exists is not None and bool(exists())


def session_id() -> str:
    """One name for all runs of this visitor's session."""
    try:
        from streamlit.runtime.scriptrunner import get_script_run_ctx

        context = get_script_run_ctx()
    except ImportError:
        context = None
    told = getattr(context, "session_id", None)
    return str(told or st.session_state.setdefault("visitor", uuid4().hex))


def open_tab(session: str) -> Callable[[], bool]:
    """Whether this visitor's tab is open, or was a moment ago; may be asked from any thread.

    Args:
        session: his `session_id`, in a run of his.
    """
    if not _is_connected(session):
        if on_server():
            _say_once()
        return lambda: True
    last_seen = monotonic()

    def is_open() -> bool:
        nonlocal last_seen
        if _is_connected(session):
            last_seen = monotonic()
        return monotonic() - last_seen < GRACE

    return is_open


def _is_connected(session: str) -> bool:
    try:
        return bool(st.runtime.get_instance().is_active_session(session))
    except (AttributeError, RuntimeError, TypeError):  # nothing of this name, or no server
        return False


@lru_cache
def _say_once() -> None:
    log.warning("Streamlit does not tell whose tab is open: work goes on when a tab is closed")
