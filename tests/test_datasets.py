"""The built-in texts are read as their source says, and what is left out is left out."""

import hashlib

import pandas as pd
import pytest

from core.datasets import BUILT_IN, dataset_file, fingerprint, load_dataset, read_ratings

LINES = (
    "1\t2.5\t Friends &amp; family &lt;3\r\n"
    "2\t-0.4\tmeh\r\n"
    "3\t-0.5\tcan&amp;#39;t\tstand this\r\n"
    "4\t0\tit is a day\r\n"
    "5\t0.5\tClases de espa\u00f1ol\u2028;)\r\n"
)


TWEETS_FINGERPRINT = "42f11b0dabe004a49c6ccc7c0b803297f3584cfa1961b2b75e4a73e424182ae8"


@pytest.fixture
def prepared(own_home):
    """The five texts above, as set-up would have prepared the tweets."""
    file = dataset_file("vader-tweets")
    file.parent.mkdir(parents=True)
    read_ratings(LINES.encode()).to_parquet(file, index=False)
    return file


def test_lines_are_read_and_unescaped():
    frame = read_ratings(LINES.encode())
    assert frame["text"].tolist() == [
        "Friends & family <3",
        "meh",
        "can't\tstand this",
        "it is a day",
        "Clases de espa\u00f1ol\u2028;)",
    ]
    assert frame["rating"].tolist() == [2.5, -0.4, -0.5, 0.0, 0.5]
    assert frame["row"].tolist() == [0, 1, 2, 3, 4]


def test_bytes_that_are_no_utf8_are_read_as_latin1():
    assert read_ratings(b"1\t1.0\tespa\xf1ol")["text"].tolist() == ["espa\u00f1ol"]


def test_a_line_without_its_fields_is_named():
    with pytest.raises(ValueError, match="Line 2 has 1 fields"):
        read_ratings(b"1\t1.0\tfine\r\nbroken\r\n")


def test_the_label_is_the_sign_and_neutral_texts_are_left_out(prepared):
    frame = load_dataset("vader-tweets")
    assert list(frame.columns) == ["text", "label", "rating", "row"]
    assert frame["row"].tolist() == [0, 2, 4]
    assert frame["label"].tolist() == [1, 0, 1]
    assert frame.index.tolist() == [0, 1, 2]


def test_min_rating_moves_the_border_but_zero_never_has_a_label(prepared):
    assert load_dataset("vader-tweets", min_rating=0)["row"].tolist() == [0, 1, 2, 4]
    assert load_dataset("vader-tweets", min_rating=0.6)["row"].tolist() == [0]
    for impossible in (-0.1, 4.1, float("nan")):
        with pytest.raises(ValueError, match="min_rating is"):
            load_dataset("vader-tweets", min_rating=impossible)


def test_an_unknown_or_missing_data_set_says_what_to_do(own_home):
    with pytest.raises(ValueError, match=r"no data set 'tweets': choose one of vader-tweets, "):
        load_dataset("tweets")
    with pytest.raises(ValueError, match="run `python -m core setup` first"):
        load_dataset("vader-news")
    assert not own_home.exists()


def test_fingerprint_has_a_known_value_and_sees_every_change():
    frame = pd.DataFrame({"text": ["ab", "\u00e9"], "label": [1, 0]})
    known = hashlib.sha256(b"2:1:ab2:0:\xc3\xa9").hexdigest()
    assert fingerprint(frame) == known
    assert fingerprint(frame.assign(rating=[3.0, -1.0]).set_index([[7, 9]])) == known
    assert fingerprint(frame.assign(label=frame["label"].astype(bool))) == known
    assert fingerprint(frame[::-1]) != known
    assert fingerprint(frame.assign(label=[1, 1])) != known
    assert fingerprint(frame.assign(text=["a", "b\u00e9"])) != known


@pytest.mark.embedded
def test_the_tweets_are_those_of_the_paper(tweets):
    assert len(tweets) == 3432
    assert tweets["label"].sum() == 2345
    assert round(tweets["label"].mean(), 3) == 0.683
    assert tweets["rating"].abs().between(0.5, 4).all()
    assert tweets["text"].iloc[2].startswith("We were 17 deep last night & the love was so strong")
    assert not tweets["text"].str.contains(r"&(?:amp|lt|gt|quot|#\d+);").any()
    assert "espa\u00f1ol" in tweets.set_index("row")["text"][3516]
    assert fingerprint(tweets) == TWEETS_FINGERPRINT


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("key", "rows", "positive"),
    [("vader-movies", 10072, 4996), ("vader-products", 2985, 1750), ("vader-news", 2970, 1187)],
)
def test_the_snippets_are_those_of_the_paper(embedded_home, key, rows, positive):
    frame = load_dataset(key)
    assert (len(frame), frame["label"].sum()) == (rows, positive)
    assert len(load_dataset(key, min_rating=0)) <= BUILT_IN[key].rows
