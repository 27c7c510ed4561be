"""Fixtures that several test modules share, and what the markers `embedded` and `browser` ask."""

import os
from collections.abc import Iterator
from pathlib import Path

# Processes that share the cores (pytest-xdist) take one thread each; torch reads it when it loads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import chromium as browser
import pytest
from hypothesis import settings
from streamlit.runtime.fragment import MemoryFragmentStorage

from core.cache import home
from core.datasets import load_dataset
from core.models import load_model
from core.registry import EMBEDDED
from core.setup import embedded_is_ready

# No test talks to the real hub: an address where nobody listens, unless a test names a server.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

# Two busy cores make any single example slow at times; that is no failure.
settings.register_profile("sentitrace", deadline=None)
settings.load_profile("sentitrace")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("embedded") and not embedded_is_ready():
        pytest.fail("run `make setup` first", pytrace=False)
    if item.get_closest_marker("browser"):
        if browser.is_left_out():
            pytest.skip("SENTITRACE_NO_BROWSER is set")
        if browser.find() is None:
            pytest.fail(browser.ADVICE, pytrace=False)


@pytest.fixture(autouse=True)
def no_fragment_in_a_fragment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold for every page that a test runs what docs/architecture.md says of fragments."""
    register = MemoryFragmentStorage.register
    nested = []

    def noticed(self, key, fragment, *, parent_fragment_id=None, **options):
        if parent_fragment_id is not None:
            nested.append(fragment)
        register(self, key, fragment, parent_fragment_id=parent_fragment_id, **options)

    monkeypatch.setattr(MemoryFragmentStorage, "register", noticed)
    yield
    assert not nested


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test, not created yet."""
    folder = tmp_path / "sentitrace"
    monkeypatch.setenv("SENTITRACE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def embedded_home() -> Path:
    """The cache folder that set-up prepared; for tests marked `embedded`."""
    return home()


@pytest.fixture(scope="session")
def embedded_model(embedded_home):
    """The embedded model, loaded once; for tests marked `embedded`."""
    return load_model(EMBEDDED)


@pytest.fixture(scope="session")
def tweets(embedded_home):
    """The 3,432 rated tweets; for tests marked `embedded`."""
    return load_dataset("vader-tweets")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium to drive; for tests marked `browser`."""
    path = browser.find()
    if path is None:
        pytest.fail(browser.ADVICE, pytrace=False)
    return path
