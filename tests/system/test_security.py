"""What docs/security.md claims, claim by claim."""

import ast
import http.client
import json
import re
import shutil
import tomllib
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pandas as pd
import pytest
from local_site import serving
from paths import ROOT
from served import serve
from small_pages import PATIENCE, ended, errors, open_page
from streamlit.testing.v1 import AppTest
from tiny_models import save_folder
from tiny_probes import make_probe
from tiny_world import SENTENCES, small_world

from core import dashboard
from core.dashboard import open_settings as recalling
from core.dashboard import sweeping
from core.dashboard.data_choice import Data
from core.exporting import addresses
from core.exporting.recipe import Recipe
from core.models import installed
from core.models.families import UnsupportedModel
from core.models.loading import load_model
from core.models.registry import model_folder
from core.server.limits import FOR_STRANGERS, NUMBERS, limits
from core.sweeps.sweep import Selection
from core.tracing.result import TraceSettings
from core.tracing.tracer import trace


@pytest.fixture
def world(own_home):
    with small_world(layers=2):
        yield own_home


def upload(page: AppTest, name: str, rows: int = 24) -> AppTest:
    lines = [f"{SENTENCES[i % 4]} {i},{int(i % 4 < 2)}" for i in range(rows)]
    content = "\n".join(["text,label", *lines, ""])
    page.button_group("source").set_value("Your file").run()
    page.file_uploader("upload").upload(name, content.encode(), "text/csv").run()
    page.toggle("controls").set_value(False)
    return page


# --- the server ----------------------------------------------------------------------------------


def test_only_this_machine_can_connect_by_default():
    options = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    assert options["server"]["address"] == "localhost"
    assert options["server"]["enableXsrfProtection"] is True
    assert options["server"]["enableCORS"] is True


def test_another_site_can_neither_upload_nor_open_a_session(tmp_path):
    with serve(tmp_path / "home") as address:
        place = urlsplit(address)

        def status(method: str, path: str, headers: dict[str, str]) -> int:
            connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
            connection.request(
                method, path, body=b"x" if method == "PUT" else None, headers=headers
            )
            found = connection.getresponse().status
            connection.close()
            return found

        assert status("GET", "/_stcore/health", {}) == 200
        # A form of another site sends no token of this one.
        assert status("PUT", "/_stcore/upload_file/any/file", {"Content-Length": "1"}) == 403
        wanted = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        assert status("GET", "/_stcore/stream", wanted | {"Origin": address}) == 101
        assert status("GET", "/_stcore/stream", wanted | {"Origin": "http://evil.test"}) == 403


@pytest.mark.usefixtures("world")
def test_a_failure_shows_no_traceback(monkeypatch):
    options = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    assert options["client"]["showErrorDetails"] == "none"

    def fail(*_, **__):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("core.dashboard.probing.train_probe", fail)
    page = open_page("probes")
    page.button("train").click().run()
    page = ended(page, "probe")
    assert "secret" not in errors(page)
    assert "the server's log has the details" in errors(page)
    assert not page.exception


# --- files ---------------------------------------------------------------------------------------


def test_the_name_of_an_upload_never_becomes_a_path(world, tmp_path):
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(world)}
    name = "../../../escaped<script>.csv"
    page = upload(open_page("probes"), name)
    page.button("train").click().run()
    page = ended(page, "probe")
    assert not errors(page)
    assert before == {path for path in tmp_path.rglob("*") if not path.is_relative_to(world)}
    written = [path for path in world.rglob("*") if path.is_file()]
    assert not [path for path in written if "escaped" in path.name or "script" in path.name]
    for kind in ("probes", "features"):
        for path in (world / kind).iterdir():
            assert re.fullmatch(r"[0-9a-f]{32}(\.json)?", path.name)


def test_code_in_a_model_folder_is_not_run(tmp_path):
    folder = save_folder(tmp_path / "model", "gpt2", layers=2)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import GPT2Config as Config, GPT2LMHeadModel as Network\n"
    )
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        said = json.loads(path.read_text())
        said["auto_map"] = {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Network",
            "AutoTokenizer": ["evil.Config", "evil.Config"],
        }
        path.write_text(json.dumps(said))
    with suppress(ValueError):  # to refuse it is right as well
        load_model(folder)
    assert not ran.exists()


def test_weights_that_can_run_code_are_refused(tmp_path):
    folder = save_folder(tmp_path / "model", "gpt2", layers=2)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="can run code"):
        load_model(folder)


def test_every_loader_says_that_no_code_comes_with_a_model():
    calls = []
    for path in sorted((ROOT / "core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                whose = ast.unparse(node.func)
                if node.func.attr in ("from_pretrained", "from_config"):
                    said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    calls.append(f"{path.name}: {whose}")
                    assert said.get("trust_remote_code") == "False", f"{path.name}: {whose}"
    assert len(calls) >= 5


# --- limits --------------------------------------------------------------------------------------


def test_limits_are_off_on_ones_own_machine_and_on_for_strangers():
    own, strangers = limits({}), limits({"SENTITRACE_PUBLIC": "1"})
    assert not own.public
    assert (own.tokens, own.samples, own.texts, own.sweeps) == (None,) * 4
    assert strangers.public
    assert {name: getattr(strangers, name) for name in FOR_STRANGERS} == FOR_STRANGERS
    assert limits({"SENTITRACE_PUBLIC": "0"}) == own
    for name, variable in NUMBERS.items():
        assert getattr(limits({variable: "7"}), name) == 7
        for wrong in ("0", "-1", "many", "1.5", "\u0663"):
            with pytest.raises(ValueError, match=variable):
                limits({variable: wrong})


def test_the_documentation_names_every_limit_and_its_default():
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    for name, variable in NUMBERS.items():
        assert re.search(rf"`{variable}` \| {FOR_STRANGERS[name]:,} \|", text), variable
    claimed = re.findall(r"`(test_\w+)`", text)
    tests = {name for name in globals() if name.startswith("test_")}
    assert {name for name in claimed if not name.endswith("_")} <= tests


@pytest.mark.usefixtures("world")
def test_limits_of_tokens_and_samples_hold_on_the_trace_page(monkeypatch):
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "6")
    page = open_page("trace")
    page.text_area("tweet").set_value("good day and bad day and good hours")
    page.button("run").click().run()
    assert "at most 6; type a shorter tweet." in errors(ended(page, "trace"))
    monkeypatch.setenv("SENTITRACE_MAX_TOKENS", "100")
    monkeypatch.setenv("SENTITRACE_MAX_SAMPLES", "1")
    page.button("run").click().run()
    assert "at most 1 noise samples" in errors(ended(page, "trace"))


@pytest.mark.usefixtures("world")
def test_limits_of_uploads_and_texts_hold_on_the_probes_page(monkeypatch):
    monkeypatch.setenv("SENTITRACE_MAX_TEXTS", "20")
    monkeypatch.setenv("SENTITRACE_MAX_UPLOAD_MB", "3")
    page = upload(open_page("probes"), "mine.csv")
    assert page.file_uploader("upload").proto.max_upload_size_mb == 3
    page.button("train").click().run()
    assert "24 texts and this server trains on at most 20" in errors(ended(page, "probe"))


@pytest.mark.usefixtures("world")
def test_limits_of_sweeps_count_for_each_session(monkeypatch):
    monkeypatch.setenv("SENTITRACE_MAX_SWEEPS", "1")

    def script():
        import streamlit as st

        from core import dashboard
        from core.dashboard.door import NO_MODEL, Guarded

        def work(job):
            yield 1.0, "done"

        if st.button("sweep", key="sweep"):
            dashboard.start(dashboard.SWEEP, Guarded(NO_MODEL, work))

    page = AppTest.from_function(script, default_timeout=60).run()
    page.button("sweep").click().run()
    assert page.session_state["job:sweep"].wait(PATIENCE).partial == "done"
    page.button("sweep").click().run()
    refused = page.session_state["job:sweep"].wait(PATIENCE)
    assert (refused.state, refused.partial) == ("failed", None)
    assert "at most 1 sweeps for one visitor" in refused.error
    other = AppTest.from_function(script, default_timeout=60).run()
    other.button("sweep").click().run()
    assert other.session_state["job:sweep"].wait(PATIENCE).partial == "done"


# --- a public server -----------------------------------------------------------------------------


@pytest.fixture
def public(world, monkeypatch):
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    return world


def test_a_public_server_loads_only_models_that_it_has(public, tmp_path, monkeypatch):
    assert dashboard.model("gpt2").layers == 2
    shutil.copytree(model_folder("gpt2"), tmp_path / "allowed" / "model")
    outside = shutil.copytree(model_folder("gpt2"), tmp_path / "outside")
    (tmp_path / "allowed" / "link").symlink_to(outside)
    for name in (str(outside), f"{tmp_path}/allowed/model"):
        with pytest.raises(ValueError, match="downloads none for visitors"):
            dashboard.model(name)
    with pytest.raises(ValueError, match="downloads none for visitors"):
        dashboard.model("distilgpt2")
    with pytest.raises(ValueError, match="downloads none for visitors"):
        dashboard.model("somebody/something")

    monkeypatch.setenv("SENTITRACE_FOLDERS", str(tmp_path / "allowed"))
    assert dashboard.model(f"{tmp_path}/allowed/model").layers == 2
    for name in (f"{tmp_path}/allowed/../outside", f"{tmp_path}/allowed/link"):
        with pytest.raises(ValueError, match="downloads none for visitors"):
            dashboard.model(name)
    # Nobody learns by asking which folders there are; a server of one's own may say it.
    refused = [errors_of(name) for name in (f"{tmp_path}/outside", f"{tmp_path}/nowhere")]
    assert refused[0].replace("outside", "nowhere") == refused[1]
    monkeypatch.delenv("SENTITRACE_PUBLIC")
    with pytest.raises(ValueError, match="not among the models"):
        dashboard.model(f"{tmp_path}/outside")


def errors_of(name: str) -> str:
    with pytest.raises(ValueError, match="not on this server") as refused:
        dashboard.model(name)
    return str(refused.value)


@pytest.fixture
def recipe(world):
    model = load_model("gpt2")
    return Recipe.of(trace(model, make_probe(model), "good day", TraceSettings(samples=2)))


def open_settings(recipe: Recipe) -> AppTest:
    page = open_page("trace")
    content = recipe.to_json().encode()
    page.file_uploader("open:trace:file").upload("s.json", content, "application/json").run()
    assert not page.exception
    return ended(page, "trace")


def test_a_settings_file_gets_no_further_than_what_is_typed(recipe, tmp_path, monkeypatch):
    """A folder that is named is not looked into, and numbers are not taken on trust."""
    outside = save_folder(tmp_path / "outside", "gpt2", layers=2)
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    named = replace(recipe, model=replace(recipe.model, name=str(outside)))
    assert "downloads none for visitors" in errors(open_settings(named))
    many = replace(recipe, settings=replace(recipe.settings, samples=21))
    assert "at most 20 noise samples, not 21" in errors(open_settings(many))
    long = replace(recipe, text=" ".join(["bad"] * 200))
    assert "at most 128; type a shorter tweet." in errors(open_settings(long))
    page = open_settings(recipe)
    assert not errors(page)
    assert page.session_state["job:trace"].progress().partial.result.samples_done == 2


def open_address(address: str) -> AppTest:
    page = open_page("trace")
    page.text_input("open:trace:address").set_value(address).run()
    assert not page.exception
    if "job:open:trace" in page.session_state:  # otherwise it is over and was taken
        page = ended(page, "open:trace")
    return page


def test_a_page_asks_no_machine_of_its_own_network(recipe):
    with serving() as site:
        site.answers["/s.json"] = (200, {}, recipe.to_json().encode())
        page = open_address(f"http://127.0.0.1:{site.port}/s.json")
        assert "127.0.0.1 is not a public address" in errors(page)
        assert site.asked == []
        assert "job:trace" not in page.session_state
    assert not errors(page.run())  # it is said once


def test_a_page_opens_what_a_public_address_holds(recipe, monkeypatch):
    monkeypatch.setattr(
        addresses, "is_public", lambda found: True
    )  # the site stands for a public one
    with serving() as site:
        site.answers["/s.json"] = (200, {}, recipe.to_json().encode())
        page = open_address(f"http://127.0.0.1:{site.port}/s.json")
        page = ended(page, "trace")
        assert not errors(page)
        assert page.text_area("tweet").value == recipe.text
        again = page.session_state["job:trace"].progress().partial.result
        assert recipe.difference(again) == ""
        assert "the server answered 404" in errors(open_address(f"http://127.0.0.1:{site.port}/n"))


@pytest.mark.usefixtures("public")
def test_a_public_server_opens_no_address():
    page = open_page("trace")
    assert not [field for field in page.text_input if field.key == "open:trace:address"]
    assert page.file_uploader("open:trace:file").proto.max_upload_size_mb == 20
    with serving() as site:
        work = recalling.fetching(f"http://127.0.0.1:{site.port}/s.json")
        refused = dashboard.downloads().submit("ann", work).wait(PATIENCE)
        assert "for the owner of this server alone" in refused.error
        assert site.asked == []


@pytest.mark.usefixtures("public")
def test_a_public_server_removes_and_downloads_no_model():
    for ask in (installed.remove, installed.discard, installed.download):
        with pytest.raises(ValueError, match="for the owner of this server alone"):
            ask("gpt2")
    assert model_folder("gpt2").is_dir()


@pytest.mark.usefixtures("public")
def test_a_public_server_sweeps_no_file_of_a_visitor():
    frame = pd.DataFrame({"text": ["good day"], "label": [1]})
    data = Data("mine.csv", frame, own=True)
    asked = sweeping.Asked(TraceSettings(), Selection(), None, None)
    work = sweeping.beginning("gpt2", "logit_pair", data, asked)
    job = dashboard.queue().submit("ann", work)
    assert "for the owner of this server alone" in job.wait(PATIENCE).error


def test_a_public_server_keeps_nothing_of_an_upload_and_shows_it_to_nobody_else(public):
    page = upload(open_page("probes"), "my secret tweets.csv")
    page.button("train").click().run()
    page = ended(page, "probe")
    assert not errors(page)
    assert any("my secret tweets.csv" in option for option in page.selectbox("shown").options)
    assert not list((public / "probes").glob("*.json"))
    # What everybody sees alike, nobody may change.
    assert not {button.key for button in page.button} & {"delete", "rename"}
    assert not [box for box in page.get("file_uploader") if box.proto.label.startswith("A probe")]

    other = open_page("probes")
    assert not [box for box in other.selectbox if box.key == "shown"]
    assert "secret" not in str(other.main)


@pytest.mark.usefixtures("world")
def test_a_server_for_members_shows_strangers_nothing(monkeypatch):
    monkeypatch.setenv("SENTITRACE_SIGN_IN", "1")
    for page in ("trace", "probes", "method"):
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
        app.switch_page(f"pages/{page}.py").run()
        alone = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=60).run()
        for shown in (app, alone):
            assert [button.label for button in shown.button] == ["Sign in"]
            assert not shown.text_area
            assert not shown.selectbox
