"""A page that says whose tabs are open, for tests/dashboard/test_visitor.py."""

import streamlit as st

from core.dashboard import visitor

visitor.GRACE = 0.5


@st.cache_resource
def tabs():
    """All visitors there were, and what tells whether they are there."""
    return {}


if (session := visitor.session_id()) not in tabs():
    tabs()[session] = visitor.open_tab(session)


@st.fragment(run_every=0.3)
def look():
    open_ones = sum(is_open() for is_open in tabs().values())
    st.text(f"{open_ones} of {len(tabs())} tabs are open")


look()
