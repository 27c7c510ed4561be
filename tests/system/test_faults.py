"""What fails beside the program: a full disk, a folder that cannot be written, damaged files.

A small file system of its own is mounted where that is allowed (as root, on Linux); elsewhere the
system's error is raised by hand where files are written.
"""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from paths import ROOT
from processes import start
from small_pages import PATIENCE, ended, errors, open_page
from streamlit.testing.v1 import AppTest
from tiny_models import make_model
from tiny_probes import make_probe
from tiny_world import keep_model, keep_tweets, small_world

from core import dashboard
from core.data.datasets import dataset_file, load_dataset
from core.models.loading import load_model
from core.models.registry import model_folder
from core.probes import encoding
from core.probes.encoding import encode
from core.probes.library import keep, kept_folder, probe_for
from core.probes.training import train_probe
from core.storage import cache
from core.tracing import sample_cache
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace, trace_progressively

SETTINGS = TraceSettings(samples=2, kinds=("hidden",))


def mounted(*arguments: str) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@contextmanager
def failing(number: int, monkeypatch: pytest.MonkeyPatch):
    """Whoever wants to write a file of the cache is told so by the system."""

    @contextmanager
    def refuse(path: Path):
        raise OSError(number, os.strerror(number), str(path))
        yield

    with monkeypatch.context() as patch:
        for module in (cache, sample_cache.cache, encoding.cache):
            patch.setattr(module, "write_beside", refuse)
        yield


@pytest.fixture(params=["full", "read-only"])
def broken_home(request, own_home, monkeypatch):
    """A cache folder with a model and tweets in which nothing more can be written."""
    own_home.mkdir()
    is_mounted = mounted("-t", "tmpfs", "-o", "size=2m", "none", str(own_home))
    try:
        keep_model(layers=2)
        keep_tweets()
        number = errno.ENOSPC if request.param == "full" else errno.EROFS
        if not is_mounted:
            with failing(number, monkeypatch):
                yield os.strerror(number)
            return
        if request.param == "full":
            with suppress(OSError), open(own_home / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(own_home)], check=True)
        yield os.strerror(number)
    finally:
        dashboard.queue().close(patience=PATIENCE)
        dashboard.downloads().close(patience=PATIENCE)
        st.cache_resource.clear()
        st.cache_data.clear()
        if is_mounted:
            subprocess.run(["umount", "-l", str(own_home)], check=True)


@pytest.fixture
def world(own_home):
    with small_world(layers=2):
        yield own_home


# --- a full disk, a folder that cannot be written ------------------------------------------------


@pytest.mark.usefixtures("broken_home")
def test_a_trace_that_cannot_be_kept_is_still_given():
    model = make_model("gpt2")
    wanted = trace(model, make_probe(model), "good day", SETTINGS)
    *_, found = trace_progressively(model, make_probe(model), "good day", SETTINGS, keep=True)
    np.testing.assert_array_equal(found.effects["hidden"], wanted.effects["hidden"])


def test_texts_that_cannot_be_encoded_to_disk_are_one_sentence(broken_home):
    texts = [f"good day {i}" for i in range(2000)]
    with pytest.raises(ValueError, match=r"SENTITRACE_HOME\.$") as error:
        encode(make_model("gpt2"), texts)
    assert broken_home in str(error.value)
    assert "\n" not in str(error.value)


def test_the_trace_page_says_in_one_sentence_what_the_disk_lacks(broken_home):
    page = open_page("trace")
    assert not page.exception
    page.text_area("tweet").set_value("good day, bad hours").run()
    page.button("run").click().run()
    page = ended(page, "trace")
    assert not page.exception
    assert broken_home in errors(page)
    assert len(page.error) == 1


def test_a_probe_that_cannot_be_kept_is_shown_all_the_same(world, monkeypatch):
    page = open_page("probes")
    page.toggle("controls").set_value(False)

    def refuse(probe):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("core.dashboard.probing.keep", refuse)
    page.button("train").click().run()
    page = ended(page, "probe")
    assert not page.exception
    assert not list(kept_folder().glob("*.json"))
    said = " ".join(element.value for element in [*page.warning, *page.error]).replace("\\", "")
    assert os.strerror(errno.ENOSPC) in said
    assert any("Accuracy " in header.value for header in page.subheader)
    # It can still be taken away.
    assert "Export" in [button.proto.label for button in page.get("download_button")]


# --- damaged files -------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    path.write_bytes(b"\x93" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [cut, scramble, empty])


@DAMAGES
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_one_sentence(world, name, damage):
    damage(model_folder("gpt2") / name)
    with pytest.raises(ValueError, match="damaged") as error:
        load_model("gpt2")
    assert "\n" not in str(error.value)
    assert "gpt2" in str(error.value)


@DAMAGES
def test_damaged_tweets_are_one_sentence(world, damage):
    damage(dataset_file("vader-tweets"))
    with pytest.raises(ValueError, match="setup") as error:
        load_dataset("vader-tweets")
    assert "\n" not in str(error.value)
    for name in ("trace", "probes"):
        page = open_page(name)
        assert not page.exception, name


@DAMAGES
def test_a_damaged_trace_encoding_or_probe_is_made_again(world, damage):
    model, tweets = make_model("gpt2"), load_dataset("vader-tweets")
    probe = train_probe(model, tweets, dataset="vader-tweets")
    keep(probe)
    *_, wanted = trace_progressively(model, probe, "good day", SETTINGS, keep=True)
    files = [
        path for kind in ("traces", "features", "probes") for path in (world / kind).rglob("*.*")
    ]
    assert len(files) == 3
    for path in files:
        damage(path)
    assert train_probe(model, tweets, dataset="vader-tweets") == probe
    *_, found = trace_progressively(model, probe, "good day", SETTINGS, keep=True)
    np.testing.assert_allclose(found.effects["hidden"], wanted.effects["hidden"], atol=1e-6)
    page = open_page("probes")
    assert not page.exception


# --- two servers ---------------------------------------------------------------------------------


def serve(home: Path, told: Connection) -> None:
    os.environ["SENTITRACE_HOME"] = str(home)
    model = load_model("gpt2")
    probe = probe_for(model, load_dataset("vader-tweets"), dataset="vader-tweets")
    for tweet in ("good day, bad hours", "awful sad day", "great happy hours"):
        *_, result = trace_progressively(model, probe, tweet, SETTINGS, keep=True)
        told.send((f"{result.total_effect:.4f}", f"{result.effects['hidden'].sum():.3f}"))


def test_two_servers_on_one_cache_folder_find_the_same(world):
    pipes = [Pipe(duplex=False) for _ in range(2)]
    servers = [start(serve, world, theirs) for _, theirs in pipes]
    for server in servers:
        server.join(600)
    assert [server.exitcode for server in servers] == [0, 0]
    first, second = ([ours.recv() for _ in range(3)] for ours, _ in pipes)
    assert first == second
    assert len(list((world / "traces").glob("*.safetensors"))) == 3
    assert len(list((world / "probes").glob("*.json"))) == 1
    assert not list(world.rglob("*.partial"))


def test_a_clock_that_jumped_confuses_no_cache(world, monkeypatch):
    model = make_model("gpt2")
    for year, tweet in ((2099, "good day"), (1999, "bad day"), (2026, "sad hours")):
        list(trace_progressively(model, make_probe(model), tweet, SETTINGS, keep=True))
        for path in (world / "traces").glob("*.safetensors"):
            os.utime(path, (0, (year - 1970) * 31_556_952))
    monkeypatch.setattr(sample_cache, "MOST_BYTES", 1)
    list(trace_progressively(model, make_probe(model), "awful", SETTINGS, keep=True))
    assert list((world / "traces").glob("*.safetensors"))


def test_the_front_page_opens_on_an_empty_cache(own_home):
    for name in ("trace", "probes", "method"):
        page = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60).run()
        assert not page.exception, name
