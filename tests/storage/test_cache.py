"""Whatever has its final name is whole, whenever its writer was interrupted."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import filelock
import platformdirs
import pytest

from core.storage import cache


def fail_half_way(path: Path) -> None:
    path.write_text("half")
    raise OSError("the disk is full half way")


def test_home_can_be_moved_and_is_not_made_by_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("SENTITRACE_HOME", str(tmp_path / "elsewhere"))
    assert cache.home() == tmp_path / "elsewhere"
    assert not cache.home().exists()
    monkeypatch.setenv("SENTITRACE_HOME", "~/texts")
    assert cache.home() == Path.home() / "texts"
    monkeypatch.delenv("SENTITRACE_HOME")
    assert cache.home() == Path(platformdirs.user_cache_dir("sentitrace", appauthor=False))


def test_a_relative_home_is_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTITRACE_HOME", "here")
    assert cache.home() == tmp_path / "here"


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "probe.json"
    with cache.write_beside(path) as temporary:
        assert temporary.name == "probe.json"
        temporary.write_text("half")
        assert not path.exists()
        assert list(path.parent.glob("*.json")) == []
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "probe.json"
    path.write_text("old")
    with pytest.raises(OSError, match="half"), cache.write_beside(path) as temporary:
        fail_half_way(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_writes_nothing_is_told_so(tmp_path):
    with pytest.raises(FileNotFoundError), cache.write_beside(tmp_path / "probe.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_its_name_when_it_is_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with cache.write_folder_beside(path) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "weights").write_text(content)
        assert (path / "deep" / "weights").read_text() == content
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="half"), cache.write_folder_beside(path) as temporary:
        fail_half_way(temporary / "weights")
    assert (path / "deep" / "weights").read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_may_be_read_by_those_who_may_read_other_new_files(tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "plain folder").mkdir()
    with cache.write_beside(tmp_path / "file") as temporary:
        temporary.write_text("")
    with cache.write_folder_beside(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain folder").stat().st_mode


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


KILLED = """
import sys
from pathlib import Path
from core.storage import cache
writer = getattr(cache, sys.argv[1])
with writer(Path(sys.argv[2])) as temporary:
    target = temporary / "part" if temporary.is_dir() else temporary
    target.write_text("half")
    print("half", flush=True)
    sys.stdin.read()  # until it is killed
"""


@pytest.mark.parametrize("writer", ["write_beside", "write_folder_beside"])
def test_a_killed_writer_leaves_only_what_can_be_removed(writer, tmp_path):
    path = tmp_path / "result"
    with started(KILLED, writer, str(path)) as child:
        assert child.stdout.readline() == "half\n"
        child.send_signal(signal.SIGKILL)
    assert not path.exists()
    other = tmp_path / "result-2"
    other.write_text("stays")
    cache.remove_leftovers(path)
    assert list(tmp_path.iterdir()) == [other]


HOLDER = """
import sys
from core.storage.cache import lock
with lock("setup"):
    print("held", flush=True)
    sys.stdin.read()  # until it is killed
"""


def test_a_lock_holds_between_processes_and_ends_with_its_holder(own_home):
    with started(HOLDER) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(filelock.Timeout), cache.lock("setup", timeout=0.1):
            pass
        with cache.lock("another", timeout=0):
            pass
        child.send_signal(signal.SIGKILL)
        with cache.lock("setup", timeout=120):
            pass


@pytest.fixture
def windows(monkeypatch) -> list[float]:
    """What Windows refuses is refused here: folders are not opened. Gives the waits."""
    waits: list[float] = []
    opened = os.open

    def open_no_folder(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        assert flags & os.O_RDWR
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(cache, "WINDOWS", True)
    here = SimpleNamespace(**{**vars(os), "open": open_no_folder})  # what shutil calls stays
    monkeypatch.setattr(cache, "os", here)
    monkeypatch.setattr(cache.time, "sleep", waits.append)
    return waits


def test_files_and_folders_are_written_where_no_folder_can_be_opened(windows, tmp_path):
    with cache.write_beside(tmp_path / "probe.json") as beside:
        beside.write_text("whole")
    with cache.write_folder_beside(tmp_path / "model") as beside:
        (beside / "weights").write_text("whole")
    assert (tmp_path / "probe.json").read_text() == (tmp_path / "model/weights").read_text()
    assert not windows


def test_a_reader_of_a_moment_is_waited_for_where_it_is_in_the_way(windows, tmp_path, monkeypatch):
    replace, refusals = os.replace, [None] * 2

    def refuse(source, target):
        if refusals:
            refusals.pop()
            raise PermissionError(13, "in use")
        replace(source, target)

    monkeypatch.setattr(cache.os, "replace", refuse)
    with cache.write_beside(tmp_path / "probe.json") as beside:
        beside.write_text("whole")
    assert (tmp_path / "probe.json").read_text() == "whole"
    assert len(windows) == 2

    refusals.extend([None] * 100)
    with pytest.raises(PermissionError), cache.write_beside(tmp_path / "probe.json") as beside:
        beside.write_text("newer")
    assert (tmp_path / "probe.json").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "probe.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"abc")
    assert cache.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    assert cache.sha256(path) == hashlib.sha256(content).hexdigest()
