"""The model manager: what is on disk, and what happens when a download cannot go well."""

import json

import pytest
from hub_server import COMMIT, serve
from tiny_models import save_folder

from core.models import hub, installed
from core.models.families import UnsupportedModel
from core.models.loading import load_model
from core.models.registry import EMBEDDED, is_on_disk, model_folder

HUB_ID = "someone/tiny-gpt2"
OTHER = "someone/strange"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tiny = save_folder(tmp_path_factory.mktemp("tiny"), "gpt2", layers=2)
    strange = save_folder(tmp_path_factory.mktemp("strange"), "gpt2", layers=2)
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    return {HUB_ID: tiny, OTHER: strange, "openai-community/gpt2": tiny}


@pytest.fixture
def served(folders, own_home, monkeypatch):
    with serve(folders) as hub_in_miniature:
        monkeypatch.setenv("HF_ENDPOINT", hub_in_miniature.address)
        yield hub_in_miniature


def test_an_empty_cache_has_no_models(own_home):
    assert installed.shelved() == []
    assert installed.unfinished() == []
    assert installed.free_bytes() > 0


def test_a_model_is_listed_with_size_origin_and_revision_and_removed(served, folders, own_home):
    offer = installed.look_up(HUB_ID)
    told = []
    folder = installed.download(HUB_ID, progress=lambda *bytes_: told.append(bytes_))
    assert told[-1] == (offer.bytes, offer.bytes)
    (model,) = installed.shelved()
    assert (model.name, model.origin, model.revision) == (HUB_ID, HUB_ID, COMMIT)
    assert (model.family, model.layers, model.supported) == ("gpt2", 2, True)
    assert not model.bundled
    assert model.bytes == offer.bytes + (folder / hub.MANIFEST).stat().st_size
    assert load_model(HUB_ID).layers == 2

    installed.remove(HUB_ID)
    assert installed.shelved() == []
    assert list((own_home / "models").glob("*")) == []
    with pytest.raises(ValueError, match="'someone/tiny-gpt2' is not on this disk"):
        installed.remove(HUB_ID)


def test_a_model_that_is_in_use_is_not_removed_by_half(served, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "in use")

    folder = installed.download(HUB_ID)
    with monkeypatch.context() as patch:
        patch.setattr(installed.cache, "rename", refuse)
        with pytest.raises(ValueError, match=r"cannot be removed \(in use\): close"):
            installed.remove(HUB_ID)
    assert (folder / hub.MANIFEST).exists()


def test_a_key_of_the_registry_is_fetched_by_its_hub_id(served):
    installed.download("gpt2")
    assert is_on_disk("gpt2")
    (model,) = installed.shelved()
    assert (model.name, model.origin) == ("gpt2", "openai-community/gpt2")


def test_a_download_that_was_stopped_is_listed_gone_on_with_and_discarded(served):
    class Stopped(Exception):
        pass

    def stop(done, total):
        if done > total // 2:
            raise Stopped

    for _ in range(2):
        with pytest.raises(Stopped):
            installed.download(HUB_ID, progress=stop)
        (waiting,) = installed.unfinished()
        assert (waiting.name, waiting.commit) == (HUB_ID, COMMIT)
        assert waiting.bytes > 0
        assert installed.shelved() == []
    installed.discard(HUB_ID)
    assert installed.unfinished() == []
    with pytest.raises(Stopped):
        installed.download(HUB_ID, progress=stop)
    installed.download(HUB_ID)
    assert installed.unfinished() == []
    assert [model.name for model in installed.shelved()] == [HUB_ID]


def test_an_unsupported_family_is_refused_before_its_weights_are_fetched(served):
    for fetch in (installed.download, load_model):
        with pytest.raises(
            UnsupportedModel, match="family 'mamba' cannot be traced yet; supported"
        ):
            fetch(OTHER)
    assert "model.safetensors" not in served.sent
    assert installed.unfinished() == []
    assert not model_folder(OTHER).exists()


@pytest.mark.parametrize(
    ("name", "status"), [("listing", 401), ("model.safetensors", 403), ("tokenizer.json", 404)]
)
def test_what_is_refused_leaves_no_model(served, name, status):
    served.refused[name] = status
    with pytest.raises(hub.HubError, match=r"^[^\n]+\.$"):
        installed.download(HUB_ID)
    assert installed.shelved() == []
    served.refused.clear()
    installed.download(HUB_ID)
    assert [model.name for model in installed.shelved()] == [HUB_ID]


@pytest.mark.parametrize(
    "name",
    ["", "../x", "a/b/c", "a b", "/etc/passwd", "a--b", "..", "a/", "x" * 100, "C:\\x", "a\nb"],
)
def test_what_is_no_name_is_refused_without_asking(served, name):
    with pytest.raises(ValueError, match="is no name of a model of the hub; write it as"):
        installed.download(name)
    assert served.asked == []


def test_the_bundled_model_stays(own_home):
    with pytest.raises(ValueError, match="comes with the dashboard"):
        installed.remove(EMBEDDED)
    with pytest.raises(ValueError, match="python -m core setup"):
        installed.download(EMBEDDED)
