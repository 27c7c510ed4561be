"""Pages opened in a small world, and what they say."""

from typing import Any

from paths import ROOT
from streamlit.testing.v1 import AppTest

PATIENCE = 120.0  # seconds until a job that hangs is called failed


def open_page(name: str, *, anyway: bool = True) -> AppTest:
    """A page by itself.

    Args:
        anyway: traces of a random model go on even where their cells cannot be read.
    """
    page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60)
    page.session_state["anyway"] = anyway
    return page.run()


def open_app() -> AppTest:
    """The whole dashboard, where traces of a random model go on whatever their verdict."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    app.session_state["anyway"] = True
    return app.run()


def visit(name: str, **query: str) -> AppTest:
    """A page of the whole dashboard, by an address with these parameters."""
    app = open_app()
    app.switch_page(f"pages/{name}.py")
    app.query_params.update(query)
    return app.run()


def ended(page: AppTest, slot: str) -> AppTest:
    """The page as the browser is told to draw it when its job is over."""
    page.session_state[f"job:{slot}"].wait(PATIENCE)
    return page.run()


def outcome(page: AppTest, slot: str) -> Any:
    return page.session_state[f"job:{slot}"].progress().partial


def run_trace(page: AppTest, text: str, *, samples: int = 2) -> AppTest:
    page.text_area("tweet").set_value(text)
    page.slider("samples").set_value(samples)
    page.button("run").click().run()
    return ended(page, "trace")


def said(page: AppTest) -> str:
    sorts = (page.markdown, page.caption, page.subheader, page.error, page.info, page.text)
    return "\n".join(element.value for sort in sorts for element in sort).replace("\\", "")


def errors(page: AppTest) -> str:
    return " ".join(error.value for error in page.error).replace("\\", "")
