"""The dashboard: `streamlit run app.py`."""

import streamlit as st

from core.session import ASSETS

st.set_page_config("SentiTrace", page_icon=str(ASSETS / "icon.svg"), layout="wide")
st.html(ASSETS / "style.css")
st.logo(str(ASSETS / "logo.svg"))
st.navigation(
    [
        st.Page("pages/trace.py", title="Trace", default=True),
        st.Page("pages/probes.py", title="Probes"),
        st.Page("pages/average.py", title="Average"),
        st.Page("pages/compare.py", title="Compare"),
        st.Page("pages/interventions.py", title="Interventions"),
        st.Page("pages/method.py", title="Method"),
    ],
    position="top",
).run()
