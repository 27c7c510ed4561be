"""Of the hub's models only whole, checked safetensors are kept; a hub away costs seconds."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, serve
from huggingface_hub import constants
from huggingface_hub.hf_api import RepoSibling
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from core.models import hub
from core.storage import cache

HUB_ID = "openai-community/gpt2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A random GPT-2 of two layers, with a pickle and code beside it that must not be taken."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=257)
    GPT2LMHeadModel(config).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code from the hub ran')\n")
    return folder


@pytest.fixture
def served(tiny, monkeypatch, own_home):
    with serve({HUB_ID: tiny}) as hub_in_miniature:
        monkeypatch.setenv("HF_ENDPOINT", hub_in_miniature.address)
        yield hub_in_miniature


def nothing_is_left(folder: Path) -> bool:
    return not folder.exists() and list(folder.parent.glob("*")) == []


def no_model_is_there(folder: Path) -> bool:
    """Nothing that could be taken for a model; what arrived may wait hidden."""
    names = [path.name for path in folder.parent.glob("*")]
    return not folder.exists() and all(name.startswith(".") for name in names)


def test_a_model_arrives_whole_and_says_where_it_is_from(served, tiny, own_home):
    folder = own_home / "models" / "gpt2"
    told: list[tuple[int, int]] = []
    found = hub.download_model(HUB_ID, folder, progress=lambda *bytes_: told.append(bytes_))
    assert found == folder
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert {path.name for path in folder.iterdir()} == names | {"sentitrace.json"}
    for name in names:
        assert (folder / name).read_bytes() == (tiny / name).read_bytes()
    assert json.loads((folder / "sentitrace.json").read_text()) == {
        "key": "gpt2",
        "source": f"hub: {HUB_ID}",
        "revision": COMMIT,
        "sha256": cache.sha256(tiny / "model.safetensors"),
    }
    size = sum((tiny / name).stat().st_size for name in names)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {size}

    original = AutoModelForCausalLM.from_pretrained(tiny)
    fetched = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)("bad", return_tensors="pt").input_ids
    assert ids.shape == (1, 3)
    assert torch.equal(fetched(ids).logits, original(ids).logits)


@pytest.mark.parametrize("held_back", [False, True])
def test_whoever_is_logged_in_fetches_with_his_token(served, own_home, monkeypatch, held_back):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", held_back)
    hub.download_model(HUB_ID, own_home / "models" / "gpt2")
    assert served.tokens == {None if held_back else "Bearer hf_of_a_test"}


def test_a_model_that_is_there_is_not_asked_for_again(served, own_home):
    folder = hub.download_model(HUB_ID, own_home / "models" / "gpt2")
    asked = len(served.asked)
    assert hub.download_model(HUB_ID, folder) == folder
    assert len(served.asked) == asked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_was_cut_short_is_not_taken(served, own_home, name):
    folder = own_home / "models" / "gpt2"
    served.cut_after[name] = 100
    with pytest.raises(hub.HubError, match=rf"{name} of .* did not arrive whole .*: try again"):
        hub.download_model(HUB_ID, folder)
    assert no_model_is_there(folder)
    served.cut_after.clear()
    hub.download_model(HUB_ID, folder)
    assert hub.describe_folder(folder) is not None
    assert [path.name for path in folder.parent.glob("*")] == ["gpt2"]


def test_a_download_goes_on_where_its_connection_was_cut(served, tiny, own_home):
    folder, size = own_home / "models" / "gpt2", (tiny / "model.safetensors").stat().st_size
    served.cut_after["model.safetensors"] = size // 2
    with pytest.raises(hub.HubError, match="the download goes on where it is"):
        hub.download_model(HUB_ID, folder)
    assert served.sent["model.safetensors"] == size // 2
    served.cut_after.clear()
    told: list[int] = []
    hub.download_model(HUB_ID, folder, progress=lambda done, total: told.append(done))
    assert served.sent["model.safetensors"] == size
    assert served.sent["config.json"] == (tiny / "config.json").stat().st_size
    assert told == sorted(told)
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_connection_that_is_cut_now_and_then_is_taken_up_by_itself(served, tiny, own_home):
    size = (tiny / "model.safetensors").stat().st_size
    served.cut_after["model.safetensors"] = size // 2

    def mended(done: int, total: int) -> None:
        if done > size // 4:
            served.cut_after.clear()

    folder = hub.download_model(HUB_ID, own_home / "models" / "gpt2", progress=mended)
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_server_that_cannot_go_on_sends_the_file_anew(served, tiny, own_home):
    folder, size = own_home / "models" / "gpt2", (tiny / "model.safetensors").stat().st_size
    served.cut_after["model.safetensors"] = size // 2
    with pytest.raises(hub.HubError):
        hub.download_model(HUB_ID, folder)
    served.cut_after.clear()
    served.ranges = False
    hub.download_model(HUB_ID, folder)
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_a_file_of_another_size_is_not_taken(served, tiny, own_home, monkeypatch):
    folder = own_home / "models" / "gpt2"
    served.longer.add("config.json")  # what is listed arrives, and more, which is left away
    hub.download_model(HUB_ID, folder)
    assert (folder / "config.json").read_bytes() == (tiny / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_was_altered_on_its_way_is_not_taken(served, own_home, name):
    folder = own_home / "models" / "gpt2"
    served.altered.add(name)
    with pytest.raises(hub.HubError, match=f"{name} has the checksum"):
        hub.download_model(HUB_ID, folder)
    assert no_model_is_there(folder)
    served.altered.clear()
    hub.download_model(HUB_ID, folder)  # the altered bytes are not gone on with
    assert hub.describe_folder(folder) is not None


def test_a_download_can_be_stopped_from_its_progress(served, own_home):
    folder = own_home / "models" / "gpt2"

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        hub.download_model(HUB_ID, folder, progress=stop)
    assert no_model_is_there(folder)
    assert len(hub.unfinished(folder)) == 1
    hub.discard(folder)
    assert nothing_is_left(folder)


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("listing", 401, "asks for an agreement on the hub: accept it"),
        ("listing", 403, "asks for an agreement on the hub: accept it"),
        ("listing", 500, "the hub was not reached"),
        ("model.safetensors", 401, "asks for an agreement on the hub: accept it"),
        ("model.safetensors", 403, "asks for an agreement on the hub: accept it"),
        ("config.json", 404, r"The hub has no config\.json of .* any more"),
        ("model.safetensors", 503, "The hub is busy .status 503 .*: try again later"),
        ("model.safetensors", 418, "The hub refused model.safetensors of .* with status 418"),
    ],
)
def test_what_the_hub_refuses_ends_in_one_sentence(served, own_home, name, status, sentence):
    folder = own_home / "models" / "gpt2"
    served.refused[name] = status
    with pytest.raises(hub.HubError, match=sentence) as caught:
        hub.download_model(HUB_ID, folder)
    assert "\n" not in str(caught.value)
    assert not folder.parent.exists() or no_model_is_there(folder)
    served.refused.clear()
    hub.download_model(HUB_ID, folder)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(served, own_home, monkeypatch):
    folder = own_home / "models" / "gpt2"
    monkeypatch.setattr(hub, "SPARE_BYTES", 2**60)
    with pytest.raises(hub.HubError, match=r"needs [\d,]+ MB on the disk, and [\d,]+ MB are free"):
        hub.download_model(HUB_ID, folder)
    assert nothing_is_left(folder)
    assert served.sent.keys() <= {"listing"}


def test_a_disk_that_becomes_full_is_told_and_freed(served, own_home, monkeypatch):
    folder = own_home / "models" / "gpt2"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(hub.HubError, match=r"The disk became full while .*: make room"):
            hub.download_model(HUB_ID, folder)
    assert nothing_is_left(folder)
    hub.download_model(HUB_ID, folder)


def test_a_folder_that_cannot_be_written_is_told(served, own_home, monkeypatch):
    def denied(descriptor: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", denied)
    with pytest.raises(hub.HubError, match=r"cannot be kept in .* .Read-only file system.: make"):
        hub.download_model(HUB_ID, own_home / "models" / "gpt2")


def test_a_model_that_is_not_accepted_is_not_fetched_further(served, own_home):
    folder = own_home / "models" / "gpt2"

    def refuse(config: Path) -> None:
        raise ValueError(f"{json.loads(config.read_text())['model_type']} is not wanted")

    with pytest.raises(ValueError, match="gpt2 is not wanted"):
        hub.download_model(HUB_ID, folder, accept=refuse)
    assert "model.safetensors" not in served.sent
    assert nothing_is_left(folder)


def test_a_slow_line_is_waited_for_and_a_dead_one_is_not(served, tiny, own_home, monkeypatch):
    folder = own_home / "models" / "gpt2"
    served.seconds_a_part = 0.02
    hub.download_model(HUB_ID, folder)
    assert hub.describe_folder(folder) is not None
    served.seconds_a_part = 2.0
    monkeypatch.setattr(hub, "PART_SECONDS", 0.2)
    monkeypatch.setattr(hub, "ATTEMPTS", 2)
    with pytest.raises(hub.HubError, match=r"did not arrive whole .*: try again"):
        hub.download_model(HUB_ID, own_home / "models" / "again")


def test_what_arrived_of_another_commit_is_removed(served, own_home):
    folder = own_home / "models" / "gpt2"
    old = folder.with_name(f".gpt2.{'f' * 40}.fetching")
    old.mkdir(parents=True)
    (old / "model.safetensors.part").write_bytes(b"old")
    hub.download_model(HUB_ID, folder)
    assert [path.name for path in folder.parent.glob("*")] == ["gpt2"]


def test_the_size_is_told_before_a_download(served, tiny):
    offer = hub.look_up(HUB_ID)
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
    assert offer.bytes == sum((tiny / name).stat().st_size for name in names)
    assert offer.commit == COMMIT


def test_a_model_the_hub_does_not_have_is_named(served, own_home):
    with pytest.raises(hub.HubError, match="The hub has no model 'nobody/nothing'"):
        hub.download_model("nobody/nothing", own_home / "models" / "nothing")
    with pytest.raises(hub.HubError, match="The hub has no model '../x y'"):
        hub.download_model("../x y", own_home / "models" / "nothing")


def test_a_hub_that_is_away_or_slow_is_not_waited_for(served, own_home, monkeypatch):
    folder = own_home / "models" / "gpt2"
    served.seconds_to_answer = 3
    with pytest.raises(hub.HubUnreachable, match=r"the hub did not answer within 0\.5 s|timed out"):
        hub.download_model(HUB_ID, folder, timeout=0.5)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hub.HubUnreachable, match="the hub was not reached"):
        hub.download_model(HUB_ID, folder)
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    with pytest.raises(hub.HubUnreachable):
        hub.download_model(HUB_ID, folder)
    assert not folder.exists()


def listed(*names: str) -> list[RepoSibling]:
    return [RepoSibling(rfilename=name) for name in names]


def test_only_pickles_or_no_weights_are_refused():
    with pytest.raises(hub.HubError, match="has only pickled weights, which can run code"):
        hub.choose_files("a/b", listed("config.json", "pytorch_model.bin"))
    with pytest.raises(hub.HubError, match="has no weights"):
        hub.choose_files("a/b", listed("config.json", "README.md"))
    with pytest.raises(hub.HubError, match=r"has no config\.json"):
        hub.choose_files("a/b", listed("model.safetensors"))


def test_one_file_of_weights_is_preferred_to_several():
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    several = hub.choose_files("a/b", listed("config.json", index, *shards, "x.py"))
    assert {file.rfilename for file in several} == {"config.json", index, *shards}
    one = hub.choose_files("a/b", listed("model.safetensors", "config.json", index, *shards))
    assert {file.rfilename for file in one} == {"config.json", "model.safetensors"}


def test_weights_in_several_files_have_one_digest(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"%d" % number)
    hub.write_description(tmp_path, key="k", source="s", revision="r")
    one, two = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    description = hub.describe_folder(tmp_path)
    assert description is not None
    assert description["sha256"] == hashlib.sha256((one + two).encode()).hexdigest()
