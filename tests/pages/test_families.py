"""Models of today's families through every page, not through the engine alone."""

from collections import deque

import pytest
from drawn import titles
from small_pages import ended, errors, open_page, outcome, run_trace, said
from tiny_models import save_folder
from tiny_world import keep_tweets, own_queue

from core.data.datasets import load_dataset
from core.models import hub
from core.models.loading import load_model
from core.models.registry import model_folder
from core.probes.contrast import contrast
from core.sweeps import sweep
from core.tracing.result import TraceSettings

TWEET = "good day, terrible hours"
PANELS = ["Hidden state", "MLP", "Attention"]


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_oss"])
def test_a_model_of_a_family_goes_through_every_page(own_home, family):
    folder = save_folder(model_folder("gpt2"), family, layers=3)
    hub.write_description(folder, key="gpt2", source="made by hand", revision="0")
    keep_tweets()
    with own_queue():
        page = open_page("probes")
        page.toggle("controls").set_value(False)
        page = ended(page.button("train").click().run(), "probe")
        assert not page.exception
        assert not errors(page)
        assert outcome(page, "probe").probe.report.n == len(load_dataset("vader-tweets"))

        page = run_trace(open_page("trace"), TWEET)
        assert not page.exception
        assert not errors(page)
        assert titles(page) == PANELS
        assert outcome(page, "trace").result.layers == 3

        page = open_page("compare")
        page.text_area("tweet").set_value(TWEET)
        page.slider("compare:samples").set_value(2)
        page = ended(page.button("compare:run").click().run(), "compare")
        assert not page.exception
        compared = outcome(page, "compare")
        assert [one.says for one in compared] == [""] * len(compared)
        assert len(compared) == 2

        page = open_page("interventions")
        page.text_area("tweet").set_value(TWEET)
        page.segmented_control("intervention:what").set_value("steer").run()
        for name, value in (("controls", 1), ("texts", 5), ("samples", 2)):
            page.slider(f"intervention:{name}").set_value(value)
        page = ended(page.button("intervene").click().run(), "intervention")
        assert not page.exception
        assert not errors(page)
        assert "After" in said(page)

        model = load_model("gpt2")
        settings = TraceSettings(samples=1, every=2)
        store = sweep.create(
            model, contrast(model, " happy", " sad"), load_dataset("vader-tweets").head(4), settings
        )
        deque(sweep.run(model, store), maxlen=0)
        page = open_page("average")
        if "job:average" in page.session_state:
            page = ended(page, "average")
        assert not page.exception
        assert not errors(page)
        assert "log P(happy) - log P(sad)" in said(page)
