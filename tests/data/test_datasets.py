"""Built-in texts, files and the hub give the same frame; a hub away is not waited for."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from dataset_server import serve_datasets
from paths import ROOT

from core.data.datasets import (
    BUILT_IN,
    dataset_file,
    fingerprint,
    load_dataset,
    load_labelled,
    read_ratings,
    table_of_stream,
)
from core.data.labelling import label_rows
from core.data.labels import Question

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


THREE = {"0": 0, "1": None, "2": 1}


# --- a file ---------------------------------------------------------------------------------------


def test_a_file_is_a_data_set_too(tmp_path):
    path = tmp_path / "tweets.csv"
    path.write_text("text,label\ngood day,1\nbad day,0\n")
    for name in (path, str(path)):
        frame = load_dataset(name)
        assert frame.to_dict("list") == {
            **{"text": ["good day", "bad day"], "label": [1, 0], "row": [0, 1], "group": [0, 1]}
        }
    assert len(fingerprint(frame)) == 64
    assert load_dataset(path, mapping={"1": 0, "0": 1})["label"].tolist() == [0, 1]


def test_rows_that_cannot_be_used_are_a_warning(tmp_path):
    path = tmp_path / "tweets.csv"
    path.write_text("text,label\n,1\ngood day,1\nbad day,0\n")
    with pytest.warns(UserWarning, match=r"1 row cannot be used: the text is empty \(1\)\."):
        assert len(load_dataset(path)) == 2
    assert load_labelled(path).refused[0].line == 2


def test_tweet_eval_is_loaded_by_its_texts(tmp_path):
    (tmp_path / "val_text.txt").write_text("tweet\nso, so\ngood, day\n")
    (tmp_path / "val_labels.txt").write_text("0\n1\n2\n")
    # Other tasks of tweet_eval have the same numbers; the file that says what they are lies beside.
    with pytest.raises(Question, match="the numbers 0, 1, 2, which can be read in more than one"):
        load_dataset(tmp_path / "val_text.txt")
    (tmp_path / "mapping.txt").write_text("0\tnegative\n1\tneutral\n2\tpositive\n")
    frame = load_dataset(tmp_path / "val_text.txt")
    assert frame[["text", "label", "row"]].values.tolist() == [["tweet", 0, 0], ["good, day", 1, 2]]


def test_a_missing_file_is_said(tmp_path):
    for name in ("tweets.csv", "data/tweets.parquet", tmp_path / "none", "~/none.csv.gz"):
        with pytest.raises(ValueError, match="There is no file"):
            load_dataset(name)
    for name in ("hub:a/b/c/d", "hub:", "two words/x"):
        with pytest.raises(ValueError, match="There is no data set"):
            load_dataset(name)


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """1,200 rows sorted by label, as Parquet."""
    path = tmp_path_factory.mktemp("shard") / "train-00000-of-00001.parquet"
    texts = [f"text {number}" for number in range(1200)]
    labels = sorted([0, 1, 2] * 400)
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(path, index=False)
    return path


def open_stream(shard, **options):
    from datasets import load_dataset as open_dataset

    return open_dataset(
        "parquet", data_files={"train": str(shard)}, split="train", streaming=True, **options
    )


def test_a_stream_of_the_library_is_read_whole(shard):
    told = []
    table = table_of_stream(
        open_stream(shard), "stream", progress=lambda done, total: told.append((done, total))
    )
    labelled = label_rows(table, mapping=THREE)
    assert labelled.frame["row"].tolist() == [*range(400), *range(800, 1200)]
    assert labelled.frame["text"].tolist()[-1] == "text 1199"
    assert (labelled.left_out, labelled.refused) == (400, ())
    assert told == [(500, 0), (1000, 0), (1200, 0)]


def test_a_part_of_a_stream_is_drawn_from_all_of_it(shard):
    table = table_of_stream(open_stream(shard), "stream", limit=300)
    rows = table.frame.index.to_numpy()
    assert len(set(rows)) == 300
    assert (rows[1:] > rows[:-1]).all()
    # Of each third a hundred, give or take three standard deviations.
    assert all(abs(((rows // 400) == third).sum() - 100) < 25 for third in range(3))
    assert table.frame["text"].tolist() == [f"text {row}" for row in rows]
    again = table_of_stream(open_stream(shard), "stream", limit=300)
    other = table_of_stream(open_stream(shard), "stream", limit=300, seed=1)
    assert again.frame.equals(table.frame)
    assert not other.frame.index.equals(table.frame.index)
    with pytest.raises(ValueError, match="limit is 0 rows"):
        table_of_stream(open_stream(shard), "stream", limit=0)


def test_classes_are_known_by_their_names(shard):
    from datasets import ClassLabel, Features, Value

    names = ["positive", "negative", "mixed"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    table = table_of_stream(open_stream(shard, features=features), "stream")
    labelled = label_rows(table)
    assert (labelled.positive, labelled.negative) == (400, 400)
    assert labelled.frame["label"].iloc[0] == 1
    assert labelled.refused[0].reason == "the label 'mixed' is not known"


def test_rows_of_a_stream_without_a_class_have_no_label(tmp_path):
    from datasets import ClassLabel, Features, Value

    path = tmp_path / "test.parquet"
    pd.DataFrame({"text": ["a", "b", "c"], "label": [1, -1, 0]}).to_parquet(path, index=False)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    table = table_of_stream(open_stream(path, features=features), "stream")
    with pytest.raises(Question, match="has the values no, yes: say which are positive"):
        label_rows(table)
    labelled = label_rows(table, mapping={"yes": 1, "no": 0})
    assert labelled.frame["label"].tolist() == [1, 0]
    assert [refusal.reason for refusal in labelled.refused] == ["the label is missing"]


def test_progress_can_stop_a_stream(shard):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table_of_stream(open_stream(shard), "stream", progress=stop)


CARD = """---
configs:
- config_name: sentiment
  data_files:
  - split: train
    path: sentiment/train-*
- config_name: emoji
  data_files:
  - split: train
    path: emoji/train-*
dataset_info:
- config_name: sentiment
  features: &features
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': negative
          '1': neutral
          '2': positive
  splits:
  - name: train
    num_bytes: 1
    num_examples: 1200
- config_name: emoji
  features: *features
---
"""

# In a process of its own: the libraries read the hub's address once, when they are imported.
SCRIPT = """
import json, sys
from core.data import datasets
datasets.SILENT_SECONDS = float(sys.argv[2])
for name, split in json.loads(sys.argv[1]):
    told = []
    try:
        labelled = datasets.load_labelled(
            name, split=split, limit=600, progress=lambda done, total: told.append((done, total))
        )
        said = {"used": labelled.frame["label"].value_counts().to_dict(),
                "neutral": labelled.left_out, "told": told,
                "rows": labelled.frame["row"].tolist()}
    except ValueError as error:
        said = {"error": type(error).__name__, "sentence": str(error)}
    print(json.dumps(said))
"""


def load_in_a_process(asked, address, folder, *, silent_seconds=20.0, **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked), str(silent_seconds)],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def hub_folders(shard, tmp_path_factory):
    """tweet_eval as Parquet, and Sentiment140 as a script that the hub has converted."""
    root = tmp_path_factory.mktemp("hub")
    for config in ("sentiment", "emoji"):
        (root / "tweet_eval" / config).mkdir(parents=True)
        shutil.copy(shard, root / "tweet_eval" / config)
    (root / "tweet_eval" / "README.md").write_text(CARD)
    (root / "script").mkdir()
    (root / "script" / "sentiment140.py").write_text("raise SystemExit('code of the hub ran')")
    converted = root / "converted" / "sentiment140" / "train"
    converted.mkdir(parents=True)
    texts = [f"text {number}" for number in range(1000)]
    labels = [0] * 500 + [4] * 500
    frame = pd.DataFrame({"text": texts, "user": "u", "sentiment": labels})
    frame.to_parquet(converted / "0000.parquet", index=False)
    return {
        ("cardiffnlp/tweet_eval", "main"): root / "tweet_eval",
        ("stanfordnlp/sentiment140", "main"): root / "script",
        ("stanfordnlp/sentiment140", "refs/convert/parquet"): root / "converted",
        ("someone/sentiment140", "main"): root / "script",
    }


def test_data_sets_of_the_hub_are_streamed_and_no_code_is_run(hub_folders, tmp_path):
    with serve_datasets(hub_folders) as hub:
        asked = [
            ("hub:cardiffnlp/tweet_eval/sentiment", "train"),
            ("stanfordnlp/sentiment140", "train"),
            ("hub:cardiffnlp/tweet_eval", "train"),
            ("hub:cardiffnlp/tweet_eval/nothing", "train"),
            ("hub:cardiffnlp/tweet_eval/sentiment", "dev"),
            ("hub:stanfordnlp/sentiment140", "dev"),
            ("hub:stanfordnlp/sentiment140/nothing", "train"),
            ("hub:someone/sentiment140", "train"),
            ("hub:nobody/nothing", "train"),
        ]
        tweet_eval, sentiment140, *refused = load_in_a_process(asked, hub.address, tmp_path)
    assert tweet_eval["told"] == [[500, 1200], [1000, 1200], [1200, 1200]]
    assert sum(tweet_eval["used"].values()) + tweet_eval["neutral"] == 600
    assert min(*tweet_eval["used"].values(), tweet_eval["neutral"]) > 150
    assert sum(sentiment140["used"].values()) == 600
    assert min(sentiment140["used"].values()) > 250
    assert max(sentiment140["rows"]) > 950
    sentences = [
        "'cardiffnlp/tweet_eval' has several configs, sentiment, emoji: write one after the name, "
        "as in hub:cardiffnlp/tweet_eval/sentiment.",
        "'cardiffnlp/tweet_eval' cannot be read: BuilderConfig 'nothing' not found. "
        "Available: ['sentiment', 'emoji'].",
        "'cardiffnlp/tweet_eval' cannot be read: Bad split: dev. Available splits: ['train'].",
        "'stanfordnlp/sentiment140' has no split 'dev': choose one of train.",
        "'stanfordnlp/sentiment140' has no config 'nothing': choose one of sentiment140.",
        "The hub has no tables of 'someone/sentiment140', which is a script: it is not run.",
        "The hub has no data set 'nobody/nothing': check the name.",
    ]
    assert [said["sentence"] for said in refused] == sentences
    assert {said["error"] for said in refused} == {"HubError"}
    assert not any(request.startswith("GET") and ".py" in request for request in hub.asked)


def test_a_hub_that_falls_silent_is_given_up(hub_folders, tmp_path):
    asked = [("hub:cardiffnlp/tweet_eval/sentiment", "train")]
    with serve_datasets(hub_folders) as hub:
        for place in ("/api/datasets", ".parquet"):
            hub.hang_at = place
            (said,) = load_in_a_process(asked, hub.address, tmp_path, silent_seconds=2.0)
            assert said["error"] == "HubUnreachable"
            assert "'cardiffnlp/tweet_eval' cannot be fetched: the hub " in said["sentence"]


def test_a_hub_that_is_away_is_not_waited_for(tmp_path):
    asked = [("hub:cardiffnlp/tweet_eval/sentiment", "train"), ("stanfordnlp/sentiment140", "test")]
    away = load_in_a_process(asked, "http://127.0.0.1:9", tmp_path)
    forbidden = load_in_a_process(asked[:1], "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    for said in (*away, *forbidden):
        assert said["error"] == "HubUnreachable"
        assert said["sentence"].endswith(".")
    assert "the hub was not reached" in away[0]["sentence"]
    assert "HF_HUB_OFFLINE forbids it" in forbidden[0]["sentence"]
