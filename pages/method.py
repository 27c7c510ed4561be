"""The Method page: docs/method.md, so that both say the same."""

import streamlit as st

from core import dashboard
from core.distribution import ROOT

METHOD = ROOT / "docs" / "method.md"


def main() -> None:
    """The document's title and first sentence as the page's, and the rest below."""
    title, sentence, rest = METHOD.read_text(encoding="utf-8").split("\n\n", 2)
    dashboard.heading(title.removeprefix("# "), sentence)
    with st.container(width=760):
        st.markdown(rest)


main()
