"""What is said of an average: sites and claims that the numbers show, refute or leave open."""

import numpy as np
import pandas as pd
import pytest
from average_traces import LAYERS, records

from core.sweeps import average_findings as words
from core.sweeps import study
from core.sweeps.average import average, average_by, difference


def say(**options):
    return words.finding(average(records(60, **options), replicates=300))


def verdicts(found):
    return [claim.verdict for claim in found.claims]


def test_the_expected_picture_is_shown_where_it_is():
    found = say()
    assert verdicts(found) == ["supported"] * 4
    early = {peak.kind: peak for peak in found.early}
    assert set(early) == {"hidden", "mlp"}
    assert early["hidden"].role == early["mlp"].role == "sentiment_last"
    assert early["mlp"].layer == 3
    assert early["mlp"].layers[0] <= 3 <= early["mlp"].layers[1] < 2 / 3 * LAYERS
    # Half of the early site's 50% for the tweets that are long, so somewhere between.
    assert 0.25 < early["mlp"].share < 0.5
    late = {peak.kind: peak for peak in found.late}
    assert set(late) == {"hidden", "attn"}
    assert late["attn"].role == "last"
    assert late["attn"].layers[1] == LAYERS - 1
    assert "Early site: hidden state at Sentiment word, last token, layers" in found.sentence
    assert "60 tweets" in found.effect


def test_it_is_refuted_where_the_numbers_say_the_opposite():
    found = say(carried_by="attn")
    by_text = {claim.text: claim.verdict for claim in found.claims}
    assert by_text["MLPs carry the early site."] == "contradicted"
    assert by_text["Attention carries the late site."] == "contradicted"
    # Attention has an early site now, and none at the last token.
    assert {peak.kind for peak in found.early} == {"hidden", "attn"}


def test_without_a_total_effect_nothing_is_said_of_sites():
    found = say(total=0.0, spread=1.0)
    assert not found.early
    assert not found.late
    assert not found.claims
    assert "is not significant (its interval holds zero)" in found.sentence
    one = words.finding(average(records(1), replicates=50))
    assert "one tweet gives no interval" in one.sentence


def test_a_role_of_few_tweets_is_no_site():
    rows = list(records(60))
    found = average(rows, replicates=100)
    rare = found.frame["role"] == "sentiment_last"
    found.frame.loc[rare, "n"] = words.FEWEST - 1
    said = words.finding(found)
    assert all(peak.role != "sentiment_last" for peak in said.early)
    assert all("Sentiment word, last token" not in claim.text for claim in said.claims)


def test_the_papers_roles_have_the_same_claims():
    found = words.finding(average(records(60), roles="paper", replicates=300))
    assert found.claims[0].text == "The early site is at \u201cLast corrupted token\u201d."
    assert {peak.role for peak in found.late} == {"last"}


def test_shares_are_of_the_same_total_when_normalised():
    plain = say()
    shares = words.finding(average(records(60), normalised=True, replicates=300))
    assert shares.early[0].share == pytest.approx(plain.early[0].share, rel=0.05)
    assert "nats" in shares.effect


@pytest.mark.parametrize(("blur", "verdict"), [(0.5, "supported"), (-0.5, "contradicted")])
def test_a_site_that_blurs_with_length_is_found_to(blur, verdict):
    rows = list(records(80, blur=blur))
    groups = average_by(
        rows,
        lambda record: "short" if len(record.result.prompt.tweet.split()) <= 8 else "long",
        replicates=300,
    )
    claims = words.blurs(difference(groups["short"], groups["long"]), average(rows, replicates=300))
    assert [claim.verdict for claim in claims] == [verdict] * 2  # hidden states and MLPs
    assert "short minus long is" in claims[0].why


def test_false_discoveries_are_held_among_many_cells():
    draw = np.random.default_rng(0)
    mean = draw.standard_normal(2000)
    frame = pd.DataFrame({"kind": "mlp", "mean": mean, "lower": mean - 1.96, "upper": mean + 1.96})
    assert words.judged(frame)["faded"].mean() > 0.99  # 5% would not be faded one by one
    told = words.judged(frame.assign(mean=mean + 6, lower=mean + 4.04, upper=mean + 7.96))
    assert told["faded"].mean() < 0.01
    assert words.judged(frame)["largest"].sum() == 1


@pytest.mark.parametrize(
    ("apart", "verdict"), [(0.3, "supported"), (-0.3, "contradicted"), (0.01, "inconclusive")]
)
def test_a_summary_at_punctuation_must_exceed_the_control(apart, verdict):
    frame = pd.DataFrame(
        [
            {"group": "difference", "layer": layer, "n": 30}
            | {"mean": apart, "lower": apart - 0.1, "upper": apart + 0.1}
            for layer in (0, 4, 8)
        ]
    )
    assert words.summarises(frame, "nats").verdict == verdict


# --- studies -------------------------------------------------------------------------------------


def test_a_study_has_every_side_and_survives_its_file(tmp_path):
    rows = list(records(40))
    found = study.study(rows)
    assert list(found.by_label) == ["positive", "negative"]
    assert list(found.by_length) == ["short", "long"]
    assert sum(each.n for each in found.by_label.values()) == found.average.n == 40
    lengths = [len(record.result.prompt.tweet_span) for record in rows]
    assert found.median == int(np.median(lengths))
    assert found.by_length["short"].n == sum(length <= found.median for length in lengths)

    read = study.load(study.save(found, tmp_path / "study.json"))
    pd.testing.assert_frame_equal(
        read.average.frame, found.average.frame, rtol=1e-4, check_dtype=False
    )
    pd.testing.assert_frame_equal(
        read.differences["length"],
        found.differences["length"],
        rtol=1e-4,
        atol=1e-4,
        check_dtype=False,
    )
    assert read.average.total.mean == pytest.approx(found.average.total.mean, rel=1e-4)
    assert [c.verdict for c in words.finding(read.average).claims] == [
        c.verdict for c in words.finding(found.average).claims
    ]
    assert read.average.more_tweets(0.01) == pytest.approx(
        found.average.more_tweets(0.01), rel=0.01
    )
    with pytest.raises(ValueError, match="no bootstrap replicates"):
        difference(read.average, read.by_label["positive"])


def test_no_tweet_stands_in_a_kept_study(tmp_path):
    rows = list(records(20))
    written = study.save(study.study(rows), tmp_path / "study.json").read_text()
    for record in rows:
        assert record.result.prompt.tweet not in written


def test_a_study_of_one_sentiment_has_no_comparison():
    rows = [record for record in records(20) if record.label == 1]
    found = study.study(rows)
    assert found.by_label == {}
    assert "label" not in found.differences


def test_another_file_is_no_study(tmp_path):
    path = tmp_path / "other.json"
    for content in ("{}", "[]", '{"form": 99}', "not JSON"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"other\.json.*make it anew"):
            study.load(path)
