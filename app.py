"""The dashboard: `streamlit run app.py`."""

from core import dashboard

dashboard.frame().run()
