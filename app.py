"""The dashboard: `streamlit run app.py`."""

from core import session

session.frame().run()
