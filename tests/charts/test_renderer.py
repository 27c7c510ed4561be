"""Figures drawn in a process of its own: every character, aborts, time, and who ends with whom."""

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from xml.etree import ElementTree

import altair as alt
import pypdf
import pytest
from hand_made import make_frame
from paths import ROOT
from PIL import Image
from svg import texts_of

from core.charts import figures, renderer
from core.charts.renderer import Renderer, legible
from core.errors import NotDrawn
from core.exporting import embedded_settings, figure_files

EVERY = [chr(code) for code in range(0x110000)]
DANGEROUS = [*map(chr, range(0x20)), "\x7f", "\x85", "\ud800", "\udfff", "\ufffe", "\uffff"]
ABORTS = json.dumps({"title": "secret\x01", "data": {"values": [{}]}, "mark": "bar"})
HARMLESS = json.dumps({"title": "plain", "data": {"values": [{}]}, "mark": "bar"})
NAMED = re.compile(r"<U\+([0-9A-F]{4,6})>")


@pytest.fixture
def own_renderer():
    """A process that draws for one test alone."""
    made = Renderer()
    yield made
    made.stop()


def holds(text: str) -> bool:
    """Whether an XML parser reads a text as it was written."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "&#13;")
    try:
        return ElementTree.fromstring(f"<t>{escaped}</t>".encode()).text == text
    except (ElementTree.ParseError, UnicodeEncodeError):
        return False


# --- every character -----------------------------------------------------------------------------


def test_of_every_code_point_stands_what_xml_can_hold_or_its_name():
    shown = [legible(character) for character in EVERY]
    assert holds("".join(shown))
    changed = {character for character, seen in zip(EVERY, shown, strict=True) if seen != character}
    # What is not changed can be held, and what cannot be held is changed.
    assert holds("".join(character for character in EVERY if character not in changed))
    refused = {
        character for character in EVERY[:0x100] + EVERY[0xD7F0:0x10000] if not holds(character)
    }
    assert len(refused) == 29 + 2048 + 2
    assert refused < changed
    assert all(legible(character) == f"<U+{ord(character):04X}>" for character in changed)
    # Nothing that a person would want to read is among them.
    assert not any(character.isprintable() or character in "\t\n\r" for character in changed)


def sampled() -> list[str]:
    """Every character of the first scripts, every half character, and some of all others."""
    return [
        *EVERY[:0x800],
        *EVERY[0x800:0x3000:11],
        *EVERY[0x3000:0xD800:97],
        *EVERY[0xD800:0xE000:31],
        *EVERY[0xE000:0xF900:211],
        *EVERY[0xF900:0x10000],
        *EVERY[0x10000:0x20000:53],
        *EVERY[0x20000::1009],
        *(EVERY[plane + last] for plane in range(0, 0x110000, 0x10000) for last in (65534, 65535)),
    ]


def test_an_svg_of_any_characters_is_well_formed_and_shows_each():
    characters = sampled()
    lines = ["".join(characters[i : i + 200]) for i in range(0, len(characters), 200)]
    values = [{"y": number, "line": line} for number, line in enumerate(lines)]
    chart = alt.Chart(alt.InlineData(values)).mark_text(limit=0).encode(y="y:O", text="line:N")
    root = ElementTree.fromstring(figure_files.figure_bytes(chart, "svg"))
    drawn = "".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
    named = {chr(int(found, 16)) for found in NAMED.findall(drawn)}
    gone = set(characters) - set(drawn) - named
    assert all(character.isspace() for character in gone)
    assert {"\x00", "\x01", "\x1f", "\ud800", "\ufffe", "\uffff"} <= named
    assert not named & set("\t\n abc")


@pytest.mark.parametrize("form", figure_files.MIME)
def test_a_trace_of_any_characters_is_saved_in_every_form(form):
    """In a title, a caption, tokens (which stand in expressions), and the settings."""
    said = "".join(DANGEROUS)
    tokens = tuple(
        f"q{character}" for character in DANGEROUS if not 0xD800 <= ord(character) < 57344
    )
    chart = figures.trace_heatmaps(make_frame(tokens=tokens), title=said, caption=f"of {said}")
    settings = json.dumps({"tweet": "\x01\x7f\ufffe\uffff"}, ensure_ascii=False)
    made = figure_files.figure_bytes(chart, form, recipe=settings)
    assert json.loads(embedded_settings.read(made) or "") == json.loads(settings)
    if form == "png":
        with Image.open(BytesIO(made)) as image:
            image.load()
    elif form == "pdf":
        assert "q<U+0001>" in pypdf.PdfReader(BytesIO(made)).pages[0].extract_text()
    elif form == "svg":
        words = texts_of(made)
        assert any("q<U+0001>" in word for word in words)
        assert any("<U+0000><U+0001>" in word for word in words)
    else:
        # The settings stand in the head of the page; the specification is its last script.
        figure = made.decode().rpartition("const spec =")[2]
        if form == "json":
            spec = json.loads(made)
            del spec["usermeta"]
            figure = json.dumps(spec)
        assert "<U+0001>" in figure.replace("\\u003c", "<")
        # Neither as itself nor behind JSON's escapes, which an expression has twice.
        assert legible(figure) == figure
        assert not re.search(r"\\+u(0001|001f|007f|fffe|ffff|d800)", figure)


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
@pytest.mark.parametrize("place", ["data", "field", "axis", "legend", "description"])
def test_wherever_a_character_stands(form, place):
    bad = "a\x01\ufffeb"
    value = bad if place == "data" else "v"
    field = bad if place == "field" else "f"
    chart = (
        alt.Chart(alt.InlineData([{field: value, "n": 1}]))
        .mark_bar(description=bad if place == "description" else "d")
        .encode(
            alt.X("n:Q", title=bad if place == "axis" else "x"),
            alt.Y(field=field, type="nominal"),
            alt.Color(field=field, type="nominal", title=bad if place == "legend" else "c"),
        )
    )
    made = figure_files.figure_bytes(chart, form)
    if form == "svg":
        drawn = " ".join(texts_of(made))
        assert ("a<U+0001><U+FFFE>b" in drawn) == (place != "description")


def test_a_number_that_json_cannot_hold_is_null():
    chart = (
        alt.Chart(alt.InlineData([{"x": float("inf")}, {"x": 2.0}])).mark_point().encode(x="x:Q")
    )
    made = figure_files.figure_bytes(chart, "json")
    (values,) = json.loads(made, parse_constant=pytest.fail)["datasets"].values()
    assert values == [{"x": None}, {"x": 2.0}]
    assert figure_files.figure_bytes(chart, "png")


# --- aborts --------------------------------------------------------------------------------------


def test_an_abort_of_the_library_is_a_sentence_and_the_next_figure_is_drawn(own_renderer, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match="broke off") as refused:
        own_renderer.draw("svg", ABORTS)
    assert re.fullmatch(
        r"The figure cannot be drawn: .* \(Aborted\)\. .*Vega-Lite.*\.", str(refused.value)
    )
    assert "panicked at" in caplog.text
    assert "secret" not in caplog.text
    assert b"plain" in own_renderer.draw("svg", HARMLESS)


def test_a_process_that_is_killed_while_it_draws(own_renderer, monkeypatch):
    own_renderer.draw("svg", HARMLESS)
    first = own_renderer._process
    receive = renderer._receive

    def receive_from_a_killed_process(stream):
        first.send_signal(signal.SIGKILL)
        return receive(stream)

    # It is held when it is asked, and killed when it has been asked: it never answers first.
    first.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as asked:
        asked.setattr(renderer, "_receive", receive_from_a_killed_process)
        with pytest.raises(NotDrawn, match="Killed"):
            own_renderer.draw("svg", HARMLESS)
    assert b"plain" in own_renderer.draw("svg", HARMLESS)
    assert own_renderer._process.pid != first.pid


def test_a_process_that_was_killed_while_it_waited_is_replaced_without_a_word(own_renderer):
    own_renderer.draw("svg", HARMLESS)
    own_renderer._process.kill()
    own_renderer._process.wait()
    assert b"plain" in own_renderer.draw("svg", HARMLESS)


def test_a_figure_that_takes_too_long_is_given_up():
    hurried = Renderer(limit=0.01)  # the process alone takes longer to start
    with pytest.raises(NotDrawn, match=r"not drawn within 0\.01 seconds.*Vega-Lite"):
        hurried.draw("svg", HARMLESS)
    assert hurried._process is None


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next(own_renderer, monkeypatch):
    own_renderer.draw("svg", HARMLESS)

    def interrupted(stream):
        raise KeyboardInterrupt

    with monkeypatch.context() as pressed:
        pressed.setattr(renderer, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            own_renderer.draw("svg", HARMLESS.replace("plain", "first"))
    assert b"plain" in own_renderer.draw("svg", HARMLESS)


def test_what_the_library_refuses_is_its_own_sentence(own_renderer):
    with pytest.raises(ValueError, match="conversion failed"):
        own_renderer.draw("svg", '{"mark": 3}')
    process = own_renderer._process
    assert b"plain" in own_renderer.draw("svg", HARMLESS)
    assert own_renderer._process is process


def test_figures_fetch_nothing(own_renderer):
    with pytest.raises(ValueError, match="http://127.0.0.1:9"):
        own_renderer.draw("svg", '{"data": {"url": "http://127.0.0.1:9/a.csv"}, "mark": "bar"}')


# --- threads, processes, scripts -----------------------------------------------------------------


def test_threads_get_each_its_own_figure(own_renderer):
    def titled(number):
        return own_renderer.draw("svg", HARMLESS.replace("plain", f"title {number} of many"))

    with ThreadPoolExecutor(8) as threads:
        for number, svg in enumerate(threads.map(titled, range(24))):
            assert f"title {number} of many".encode() in svg


def _draws(own_renderer: Renderer, answers: "multiprocessing.SimpleQueue[bytes]") -> None:
    answers.put(own_renderer.draw("svg", HARMLESS))
    own_renderer.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_of_the_program_draws_by_a_process_of_its_own(own_renderer):
    own_renderer.draw("svg", HARMLESS)
    process = own_renderer._process
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_draws, args=(own_renderer, answers))
    child.start()
    assert b"plain" in answers.get()
    child.join()
    assert b"plain" in own_renderer.draw("svg", HARMLESS)
    assert own_renderer._process is process


SCRIPT = """
import os, sys
import altair as alt
import core
from core.exporting.figure_files import renderer
chart = alt.Chart(alt.InlineData([{"x": 1}])).mark_bar().encode(x="x:Q")
core.export_figure(chart, sys.argv[1])
print(renderer()._process.pid, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("end", ["at its end", "killed"])
def test_a_plain_script_draws_and_leaves_no_process(tmp_path, end):
    """Without `if __name__ == "__main__"`, from another folder."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "figure.png", end],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == (-9 if end == "killed" else 0), done.stderr
    assert not done.stderr
    with Image.open(tmp_path / "figure.png") as image:
        image.load()
    (pid,) = map(int, done.stdout.split())
    for _ in range(6000):
        if not _runs(pid):
            return
        time.sleep(0.05)
    pytest.fail("the process that draws is left over")


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended (one that nobody has asked for stays listed)."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return state.stdout.strip() not in ("", "Z", "Z+", "Zs")


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="this system has no alarm")
def test_a_process_whose_program_was_killed_does_not_draw_for_ever():
    """Nobody reads its answer or keeps its time."""
    endless = {"data": {"sequence": {"start": 0, "stop": 3_000_000}}, "mark": "point"}
    process = subprocess.Popen(
        [sys.executable, "-P", renderer.__file__, str(1 - renderer.GRACE)],  # a second in all
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    renderer._send(process.stdin, json.dumps(endless).encode(), wanted="svg", options={})
    assert process.wait(600) == -signal.SIGALRM


def test_the_process_that_draws_loads_nothing_of_size():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", renderer.__file__, "9"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()
    }
    assert "vl_convert" in loaded
    assert not loaded & {"core", "torch", "numpy", "pandas", "altair", "streamlit", "transformers"}
    assert done.stdout == ""


def test_the_fonts_that_come_along_are_known_there():
    spec = json.dumps(
        {
            "data": {"values": [{}]},
            "mark": {"type": "text", "font": "Source Serif Pro", "text": "a"},
        }
    )
    assert b"SourceSerifPro" in figure_files.renderer().draw("pdf", spec)
