"""Fixtures that several test modules share, and what the markers `embedded` and `browser` ask."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Processes that share the cores (pytest-xdist) take one thread each; torch reads it when it loads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import chromium as browser
import pytest
from hypothesis import HealthCheck, settings
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.fragment import MemoryFragmentStorage

from core.models.registry import EMBEDDED
from core.setup import embedded_is_ready
from core.storage.cache import home

# No test talks to the real hub: an address where nobody listens, unless a test names a server.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"

NO_BROWSER = "no Chromium that starts was found"

# Every AppTest would read again what each installed package says of itself.
manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)

# Two busy cores make any single example slow at times; that is no failure. The examples are the
# same each time, so that whoever changes one line does not meet another one's fault.
settings.register_profile(
    "sentitrace",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sentitrace")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process waits for another one at the end."""
    long = {
        item.path
        for item in items
        if item.get_closest_marker("embedded") or item.get_closest_marker("browser")
    }
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("embedded") and not embedded_is_ready():
        pytest.fail("run `make setup` first", pytrace=False)
    if item.get_closest_marker("browser"):
        if browser.is_left_out():
            pytest.skip("SENTITRACE_NO_BROWSER is set")
        if browser.find() is None:
            if browser.is_needed():
                pytest.fail(f"No Chromium that starts was found: {browser.ADVICE}.", pytrace=False)
            pytest.skip(NO_BROWSER)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say last of all how many browser tests were left out for want of a browser."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    count = sum(NO_BROWSER in str(report.longrepr) for report in skipped)
    if count:
        tests = f"{count} browser test{'s were' if count > 1 else ' was'}"
        print(f"{tests} left out, since no Chromium that starts was found: {browser.ADVICE}.")


@pytest.fixture(autouse=True)
def same_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that Streamlit ran is `__main__`, and new processes would begin by running it."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


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
    from core.models.loading import load_model

    return load_model(EMBEDDED)


@pytest.fixture(scope="session")
def tweets(embedded_home):
    """The 3,432 rated tweets; for tests marked `embedded`."""
    from core.data.datasets import load_dataset

    return load_dataset("vader-tweets")


@pytest.fixture(scope="session")
def few_tweets(embedded_home):
    """Every 8th of them, which the embedded model encodes once for all tests and processes."""
    from core.data.datasets import load_dataset

    return load_dataset("vader-tweets")[::8]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium to drive; for tests marked `browser`."""
    path = browser.find()
    assert path is not None  # pytest_runtest_setup has seen to it
    return path
