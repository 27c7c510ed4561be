"""Noise and pairs side by side: what both find is told from what one alone finds."""

from dataclasses import replace

import numpy as np
import pytest
from average_traces import LAYERS, records

from core.errors import UserError
from core.sweeps import two_corruptions
from core.sweeps.average import Average, average
from core.sweeps.average_findings import cells
from core.sweeps.two_corruptions import TwoCorruptions


def averaged(pairs: bool = False, *, normalised: bool = True, **options) -> Average:
    found = []
    for record in records(**options):
        result = record.result
        if pairs:
            settings = replace(result.settings, corruption="counterfactual")
            result = replace(result, settings=settings)
        found.append(replace(record, result=result))
    return average(found, normalised=normalised, proxy="log_odds")


@pytest.fixture(scope="module")
def noise() -> Average:
    return averaged()


@pytest.fixture(scope="module")
def agreeing(noise) -> TwoCorruptions:
    return TwoCorruptions(noise, averaged(True, n=90, seed=5))


@pytest.fixture(scope="module")
def disagreeing(noise) -> TwoCorruptions:
    """Of pairs the early site is carried by attention, the late one by MLPs."""
    return TwoCorruptions(noise, averaged(True, carried_by="attn"))


def test_what_both_find_is_named_so(agreeing):
    assert {(site.side, site.peak.kind, site.label) for site in agreeing.sites} == {
        ("tweet", "hidden", "both"),
        ("tweet", "mlp", "both"),
        ("prompt", "hidden", "both"),
        ("prompt", "attn", "both"),
    }
    assert all(claim.agreed for claim in agreeing.claims)
    assert [claim.noise.verdict for claim in agreeing.claims] == ["supported"] * 4
    cells_said, sites_said, claims_said = agreeing.sentences()
    assert sites_said.startswith("Both: hidden state at Sentiment word, last token, layers")
    assert "only" not in sites_said
    assert claims_said.startswith("Supported by both: The early site is at")
    assert f"{agreeing.overlap['both']} are significant by both corruptions" in cells_said


def test_what_one_alone_finds_is_named_so(disagreeing):
    labels = {(site.side, site.peak.kind): site.label for site in disagreeing.sites}
    assert labels == {
        ("tweet", "hidden"): "both",
        ("tweet", "mlp"): "noise only",
        ("tweet", "attn"): "pairs only",
        ("prompt", "hidden"): "both",
        ("prompt", "attn"): "noise only",
        ("prompt", "mlp"): "pairs only",
    }
    for site in disagreeing.sites:
        if site.label == "noise only":
            assert site.noise > 0.25 > 0.1 > abs(site.pairs)
    verdicts = {c.text: (c.noise.verdict, c.pairs.verdict) for c in disagreeing.claims}
    assert verdicts["MLPs carry the early site."] == ("supported", "contradicted")
    assert verdicts["Attention carries the late site."] == ("supported", "contradicted")
    _, sites_said, claims_said = disagreeing.sentences()
    assert "Noise only: MLP at Sentiment word, last token" in sites_said
    assert "Pairs only: attention at Sentiment word" in sites_said
    assert "MLPs carry the early site. (supported, contradicted)" in claims_said


def test_cells_are_counted_as_each_average_judges_them(agreeing):
    ours, theirs = cells(agreeing.noise), cells(agreeing.pairs)
    expected = dict.fromkeys(agreeing.overlap, 0)
    for row in ours.to_dict("records"):
        same = theirs[
            (theirs["kind"] == row["kind"])
            & (theirs["layer"] == row["layer"])
            & (theirs["role"] == row["role"])
        ]
        if same.empty or row["trivial"] or same["trivial"].item() or np.isnan(row["mean"]):
            continue
        told = not row["faded"], not same["faded"].item()
        label = {(True, True): "both", (True, False): "noise only", (False, True): "pairs only"}
        expected[label.get(told, "neither")] += 1
    assert agreeing.overlap == expected
    assert min(expected["both"], expected["neither"]) > 0


def test_layers_that_one_left_out_are_left_out(noise):
    found = TwoCorruptions(noise, averaged(True, every=3))
    assert set(found.cells["layer"]) == set(range(0, LAYERS, 3))


def test_without_a_total_effect_nothing_survives(noise):
    found = TwoCorruptions(noise, averaged(True, total=0.0, spread=0.5))
    assert {site.label for site in found.sites} == {"noise only"}
    assert not any(claim.agreed for claim in found.claims)
    assert len(found.claims) == 4


def test_it_is_kept_as_numbers_alone(disagreeing, tmp_path):
    path = two_corruptions.save(disagreeing, tmp_path / "two.json")
    again = two_corruptions.load(path)
    assert again.sentences() == disagreeing.sentences()
    assert again.overlap == disagreeing.overlap
    assert "flight" not in path.read_text()
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no two averages"):
        two_corruptions.load(path)


def test_only_what_differs_in_its_corruption_alone_is_compared(noise):
    with pytest.raises(UserError, match="the one over pairs is by 'noise'"):
        TwoCorruptions(noise, noise)
    with pytest.raises(UserError, match="the one by noise is by 'counterfactual'"):
        TwoCorruptions(averaged(True, n=3), noise)
    with pytest.raises(UserError, match="shares"):
        TwoCorruptions(noise, averaged(True, n=3, normalised=False))
    other = averaged(True, n=3)
    other.about["proxy"] = "log_ratio"
    with pytest.raises(UserError, match="differ in proxy"):
        TwoCorruptions(noise, other)
