"""Pairs of the published shapes load without questions; what makes no pair is told with its row."""

from pathlib import Path

import pandas as pd
import pytest
from pair_files import CEBAB, CONTRAST, IMDB, ORIGINAL, SST2

import core
from core.data.datasets import load_table
from core.data.labels import Question
from core.data.pairs import OWN, edited_pairs, find_pairs, load_pairs
from core.data.tables import safe_csv
from core.errors import UserError

COLUMNS = ["text", "label", "counterfactual", "counterfactual_label"]


@pytest.fixture
def written(tmp_path):
    def write(name: str, content: str):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def _written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def rows(frame: pd.DataFrame) -> list[tuple]:
    return list(frame[COLUMNS].itertuples(index=False, name=None))


def test_augmented_imdb_is_two_rows_with_a_shared_id(written):
    found = core.load_pairs(written("train_paired.tsv", IMDB))
    assert rows(found) == [
        ('A "bad" film.<br /><br />Don\'t see it.', 0, 'A "good" film.<br /><br />See it.', 1),
        ("The plot is strong.", 1, "The plot is weak.", 0),
    ]
    assert found["row"].tolist() == [0, 2]


def test_cebabs_edits_belong_to_their_original_wherever_it_stands(written):
    table = load_table(written("cebab.csv", CEBAB))
    found = find_pairs(table)
    assert rows(found.frame) == [
        ("The soup was warm and tasty.", 1, "The soup was cold and bland.", 0),
        ("The fish was off.", 0, "The fish was fresh.", 1),
    ]
    assert found.same_label == 1  # 5 stars became 4
    assert found.neutral == 1  # 3 stars; its edit has no partner then
    assert found.refused_frame()[["row", "reason"]].values.tolist() == [
        [2, "the label 'no majority' is not known"]
    ]
    assert found.describe() == (
        "2 pairs, 1 of them of a positive text (rows that share 'original_id'). "
        "1 pair left out whose two texts have the same label. 1 neutral text left out. "
        "1 row cannot be used: the label 'no majority' is not known (1). Texts from 'description'; "
        "labels from 'review_majority': above 3 positive, below it negative."
    )


def test_a_contrast_set_is_two_files_that_lie_side_by_side(written):
    path = written("test_original.tsv", ORIGINAL)
    expected = [("A dull film.", 0, "A gripping film.", 1), ("A fine cast.", 1, "A poor cast.", 0)]
    other = written("test_contrast.tsv", CONTRAST)
    assert rows(load_pairs(path)) == expected
    elsewhere = other.rename(other.with_name("elsewhere.tsv"))
    assert rows(load_pairs(path, contrast=elsewhere)) == expected


def test_files_of_unequal_length_are_no_contrast_set(written):
    path = written("test_original.tsv", ORIGINAL)
    written("test_contrast.tsv", CONTRAST + "Positive\tOne more.\n")
    with pytest.raises(
        UserError, match=r"test_original.tsv has 2 rows and test_contrast.tsv has 3"
    ):
        load_pairs(path)


def test_pairs_of_sst2_share_an_id(written):
    assert rows(load_pairs(written("sst2.tsv", SST2))) == [
        ("a charming film", 1, "a tedious film", 0)
    ]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        ("text,label,counterfactual,counterfactual_label", "good day,1,bad day,0", (1, 0)),
        ("original,revised,sentiment", "good day,bad day,positive", (1, 0)),
        ("positive,negative", "good day,bad day", (1, 0)),
        ("Sentence1,Sentence2,Label1,Label2", "good day,bad day,pos,neg", (1, 0)),
        ("clean,corrupted,label", "good day,bad day,1", (1, 0)),
    ],
)
def test_a_row_may_be_a_pair(written, header, row, expected):
    # A second row the other way round, so that both labels are there.
    turned = {"good day": "bad day", "bad day": "good day", "1": "0", "0": "1"}
    turned |= {"positive": "negative", "pos": "neg", "neg": "pos"}
    second = ",".join(turned[cell] for cell in row.split(","))
    found = load_pairs(written("pairs.csv", f"{header}\n{row}\n{second}\n"))
    assert (found["label"][0], found["counterfactual_label"][0]) == expected
    assert found["text"][0] == "good day"
    assert found["counterfactual"][0] == "bad day"
    if not header.startswith("positive"):
        assert rows(found)[1] == ("bad day", 0, "good day", 1)


def test_columns_of_any_name_can_be_told(written):
    path = written(
        "mine.jsonl",
        '{"before": "so good", "after": "so bad", "how": "up"}\n'
        '{"before": "so bad", "after": "so good", "how": "down"}\n',
    )
    with pytest.raises(Question) as asked:
        load_pairs(path)
    assert asked.value.about == "pair"
    assert asked.value.choices == ("before", "after", "how")
    found = load_pairs(
        path, text="before", counterfactual="after", label="how", mapping={"up": 1, "down": 0}
    )
    assert rows(found) == [("so good", 1, "so bad", 0), ("so bad", 0, "so good", 1)]
    with pytest.raises(UserError, match="no column 'later': choose one of 'before'"):
        load_pairs(path, text="before", counterfactual="later")


def test_an_id_of_any_name_can_be_told(written):
    path = written("mine.csv", "text,label,n\nso good,1,a\nso bad,0,a\nalone,1,b\n")
    with pytest.warns(UserWarning, match="no other row makes a pair with it"):
        found = load_pairs(path, pair="n")
    assert rows(found) == [("so good", 1, "so bad", 0)]


def test_unusable_rows_are_told_by_their_row_in_the_file(written):
    table = load_table(
        written(
            "pairs.csv",
            "text,counterfactual,label\n"
            "same, same ,1\ngood,,1\ngood,bad,1\nbad,good,0\nno label,x,\n",
        )
    )
    found = find_pairs(table)
    assert rows(found.frame) == [("good", 1, "bad", 0), ("bad", 0, "good", 1)]
    told = found.refused_frame()[["row", "line", "reason"]].values.tolist()
    assert told == [
        [0, 2, "the two texts are the same"],
        [1, 3, "the text is empty"],
        [4, 6, "the label is missing"],
    ]
    assert found.frame["group"].tolist() == [0, 1]


def test_where_no_pair_is_left_the_sentence_says_why(written):
    path = written("pairs.csv", "text,counterfactual,label,counterfactual_label\na b,c d,1,1\n")
    with pytest.raises(UserError, match=r"the two texts have the same label \(1\)"):
        load_pairs(path)


def test_built_in_texts_are_no_pairs_yet():
    with pytest.raises(UserError, match="python -m core pairs --data vader-tweets"):
        load_pairs("vader-tweets")


def test_edited_pairs_keep_what_they_were_made_by_and_new_ones_are_a_persons_own():
    before = pd.DataFrame(
        [
            ("good day", 1, "bad day", 0, "antonym", "good", "bad", True),
            ("so bad", 0, "not so bad", 1, "negated", "so", "not so", False),
            ("dropped", 1, "gone", 0, "antonym", "dropped", "gone", True),
        ],
        columns=[*COLUMNS, "edit", "before", "after", "same_length"],
    )
    table = pd.DataFrame(
        [
            ("so bad", "negative", "not so bad", "positive"),
            ("good day", "positive", "@sad day", "negative"),
            ("good day", "positive", "bad day", "negative"),
            (None, "positive", "half a row", "negative"),
            ("same", "positive", "other", "positive"),
        ],
        columns=COLUMNS,
    )
    found = edited_pairs(table, before)
    assert rows(found.frame) == [
        ("so bad", 0, "not so bad", 1),
        ("good day", 1, "@sad day", 0),
        ("good day", 1, "bad day", 0),
    ]
    assert found.frame["edit"].tolist() == ["negated", OWN, "antonym"]
    assert found.frame["group"].tolist() == [0, 1, 1]
    assert found.same_label == 1
    assert found.refused_frame()["row"].tolist() == [3]


def test_edited_pairs_that_are_saved_are_loaded_again(tmp_path):
    before = find_pairs(load_table(_written(tmp_path / "sst2.tsv", SST2))).frame
    words = before.assign(text="@name " + before["text"])[COLUMNS].replace(
        {"label": {1: "positive", 0: "negative"}, "counterfactual_label": {1: "pos", 0: "neg"}}
    )
    found = edited_pairs(words, before).frame
    path = tmp_path / "pairs.csv"
    path.write_bytes(safe_csv(found))
    assert rows(load_pairs(path)) == rows(found)
