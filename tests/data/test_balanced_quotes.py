"""Quotes that one row opens and another closes merge no rows; a text of several lines stays one."""

import csv
import io
import random

import pytest

from core.data.labelling import label_rows
from core.data.labels import Label
from core.data.read_file import read_table
from core.data.tables import Table

WORDS = ("good", "bad", "day", "sunny", "rain", "the", "a", "well", "so", "much", "hours")
LABELS = {
    "numbers": ("0", "1"),
    "signs": ("-1", "1"),
    "English": ("negative", "positive"),
    "other words": ("negativo", "positivo"),
    "unknown numbers": ("1", "2"),
}
LABEL_FIRST, LABEL_LAST, AMONG_OTHERS = "label first", "label last", "among other columns"


def table_of(lines: list[str], delimiter: str) -> Table:
    return read_table(("\n".join(lines) + "\n").encode(), "t.tsv" if delimiter == "\t" else "t.csv")


def line_of(number: int, label: str, text: str, order: str, delimiter: str) -> str:
    cells = {
        LABEL_FIRST: [label, text],
        LABEL_LAST: [text, label],
        AMONG_OTHERS: [f"id{number}", label, text, "en"],
    }[order]
    return delimiter.join(cells)


def header_of(order: str, delimiter: str) -> str:
    return delimiter.join(
        {
            LABEL_FIRST: ["label", "text"],
            LABEL_LAST: ["text", "label"],
            AMONG_OTHERS: ["id", "label", "text", "lang"],
        }[order]
    )


def said(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 8)))


@pytest.mark.parametrize("order", [LABEL_FIRST, LABEL_LAST, AMONG_OTHERS])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("kind", LABELS)
def test_no_row_is_lost_to_the_quotes_of_others(kind, delimiter, order):
    draw = random.Random(f"{kind}{delimiter}{order}")
    for share in (0.05, 0.3, 1.0):
        wanted: list[tuple[str, str]] = []
        opened = False
        for _ in range(60):
            text = said(draw)
            if opened and (share == 1.0 or draw.random() < 0.5):
                text, opened = f'{text}"', False
            elif not opened and draw.random() < share:
                text, opened = f'"{text}', True
            wanted.append((draw.choice(LABELS[kind]), text))
        if opened:
            wanted[-1] = (wanted[-1][0], f'{said(draw)}"')
        lines = [
            line_of(n, label, text, order, delimiter) for n, (label, text) in enumerate(wanted)
        ]
        table = table_of([header_of(order, delimiter), *lines], delimiter)
        assert table.refused == ()
        found = list(zip(table.frame["label"], table.frame["text"], strict=True))
        assert found == wanted
        assert table.lines.tolist() == list(range(2, 62))


@pytest.mark.parametrize("order", [LABEL_FIRST, LABEL_LAST, AMONG_OTHERS])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_text_of_several_lines_stays_one(quoting, delimiter, order):
    draw = random.Random(f"{quoting}{delimiter}{order}")
    for _ in range(3):
        sink = io.StringIO(newline="")
        writer = csv.writer(sink, delimiter=delimiter, quoting=quoting, lineterminator="\n")  # type: ignore[arg-type]
        writer.writerow(header_of(order, delimiter).split(delimiter))
        wanted: list[tuple[str, str]] = []
        for number in range(60):
            parts = [said(draw) for _ in range(draw.choice((1, 1, 2, 3, 5)))]
            # A sentence's comma or semicolon has a space behind it; a tab within a text is rare.
            text = "\n".join(
                part.replace(
                    " ", f"{',' if delimiter == chr(9) else delimiter} ", draw.randint(0, 2)
                )
                for part in parts
            )
            label = draw.choice(LABELS["numbers"])
            wanted.append((label, text))
            writer.writerow(
                {
                    LABEL_FIRST: [label, text],
                    LABEL_LAST: [text, label],
                    AMONG_OTHERS: [f"id{number}", label, text, "en"],
                }[order]
            )
        table = table_of(sink.getvalue().rstrip("\n").split("\n"), delimiter)
        found = list(zip(table.frame["label"], table.frame["text"], strict=True))
        assert found == wanted
        assert table.balanced == 0


PLAIN = [f"{n % 2}\ta fine day {n}" for n in range(20)]


@pytest.mark.parametrize(
    ("between", "rows", "reasons"),
    [
        ([], 22, []),
        (["0\thm", "1\toh", "0\tno"], 25, []),
        (["0\thm", "1\toh", "0\tso", "1\ta\tb"], 25, ["the row has 3 fields instead of 2"]),
        (["0\thm", "1\toh", "0\tso", "alone"], 25, ["the row has 1 field instead of 2"]),
        (["0\thm", "?\toh", "0\tso", "1\tno"], 26, []),
        ([""], 22, []),
    ],
)
def test_a_line_that_is_no_row_does_not_hide_those_around_it(between, rows, reasons):
    lines = ["label\ttext", *PLAIN, '0\t"it rains', *between, '1\tthe sun"', *PLAIN[:4]]
    table = table_of(lines, "\t")
    assert len(table.frame) == rows + 4
    assert [refusal.reason for refusal in table.refused] == reasons
    assert '"it rains' in table.frame["text"].tolist()
    assert 'the sun"' in table.frame["text"].tolist()


def test_quotes_and_labels_that_the_first_lines_do_not_have_are_seen():
    """The first thousand lines are looked at: these have no quote, and one of the labels."""
    lines = ["label\ttext", *(f"0\ta grey day {n}" for n in range(1500))]
    lines += ['1\t"a bright day', '1\ta warm day"'] * 3
    table = table_of(lines, "\t")
    assert len(table.frame) == 1506
    labelled = label_rows(table)
    assert (labelled.positive, labelled.negative) == (6, 1500)


def test_a_text_with_delimiters_among_balanced_quotes_is_refused_and_not_merged():
    lines = ["label,text", *(f'{n % 2},"well, day {n}"' for n in range(20))]
    table = table_of([*lines, '0,"it rains', '1,sun,here"', *lines[1:]], ",")
    assert len(table.frame) == 41
    assert [(r.line, r.reason) for r in table.refused] == [
        (23, "the row has 3 fields instead of 2")
    ]


def test_the_labels_of_merged_rows_are_those_of_the_file():
    lines = ["texto\tclase"]
    lines += ['"un dia horrible\tnegativo', 'un dia lindo"\tpositivo'] * 8
    mapping: dict[str, Label | None] = {"positivo": 1, "negativo": 0}
    labelled = label_rows(table_of(lines, "\t"), text="texto", label="clase", mapping=mapping)
    assert labelled.frame["label"].tolist() == [0, 1] * 8
