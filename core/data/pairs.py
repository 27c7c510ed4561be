"""Which two texts of a file say the opposite of each other? Pairs as one tidy frame.

A pair is a text and its counterfactual: the same but for an edit that turns the sentiment. Zhang
and Nanda 2024 ("Towards Best Practices of Activation Patching in Language Models", section 3)
recommend such pairs in place of noise. Published sets of them have one of three shapes, which are
told apart by the names of columns and files:

- one row a pair, with two columns of texts;
- two rows or more with a shared id, the text first that was edited: counterfactually augmented IMDB
  (Kaushik et al. 2020; Sentiment, Text, batch_id), CEBaB's edits (Abraham et al. 2022; original_id,
  is_original, description, review_majority), pairs of SST-2 (sentence, label, pair_id);
- two files, row by row: contrast sets (Gardner et al. 2020; test_original.tsv, test_contrast.tsv).

Files are read by `core.data.read_file`, labels by `core.data.labelling`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distribution import COMMAND
from ..errors import UserError
from . import datasets
from .delimited import Quoting
from .labelling import LabelledTable, label_rows, no_column, text_groups
from .labels import (
    Label,
    Question,
    columns_by_name,
    excerpt,
    guess_by_name,
    listed,
    plain_name,
)
from .tables import (
    Refusal,
    Table,
    amount,
    from_records,
    no_usable_row,
    reasons,
    refused_frame,
    undefused,
)

if TYPE_CHECKING:
    import pandas as pd

ONE_ROW = (
    *(("text", "counterfactual"), ("original", "counterfactual"), ("original", "revised")),
    *(("original", "contrast"), ("original", "edited"), ("original_text", "revised_text")),
    *(("original_text", "counterfactual_text"), ("original_text", "edited_text")),
    *(("text", "counterfactual_text"), ("text", "revised_text"), ("text", "edited_text")),
    *(("sentence", "counterfactual"), ("sentence", "contrast"), ("sentence", "edited_sentence")),
    *(("review", "counterfactual"), ("clean", "corrupted"), ("clean_text", "corrupted_text")),
    *(("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("text", "text_pair")),
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b")),
)
"""Names of the text's column and the counterfactual's, where a row is a pair."""

BY_SENTIMENT = ("positive", "negative")
"""Names of two columns of texts that say the label themselves."""

LABELS_OF_TWO = (
    *(("label", "counterfactual_label"), ("label", "label_counterfactual")),
    *(("original_label", "counterfactual_label"), ("original_label", "revised_label")),
    *(("original_label", "contrast_label"), ("original_label", "edited_label")),
    *(("original_sentiment", "revised_sentiment"), ("sentiment", "counterfactual_sentiment")),
    *(("clean_label", "corrupted_label"), ("label1", "label2"), ("label_1", "label_2")),
    *(("label_a", "label_b"), ("sentiment1", "sentiment2"), ("label", "revised_label")),
    *(("label", "edited_label"), ("label", "contrast_label")),
)
"""Names of the two columns of labels beside them; where there is one, the other is its opposite."""

IDS = ("pair_id", "batch_id", "original_id", "pair", "pair_idx", "pairid")
"""Names of the column that a text shares with its counterfactuals, where each has a row."""

IS_ORIGINAL = ("is_original", "original", "is_counterfactual", "is_edit")
"""Names of a column that says of each row whether it was edited; else the first row was not."""

PAIRED = ("counterfactual", "counterfactual_label")
"""The columns that pairs have and single texts have not."""

OWN = "own"
"""The edit of a pair that a person made."""

MADE = ("edit", "before", "after", "same_length")
"""Columns that pairs made of single texts have besides (`core.probes.turned_pairs`)."""

_TEXTS = ("description",)  # of CEBaB, besides the names of labelled texts
_LABELS = ("review_majority",)
_TRUE, _FALSE = ("1", "true", "yes", "t"), ("0", "false", "no", "f")
_BESIDE = (("_original", "_contrast"), ("_original", "_counterfactual"), ("_original", "_revised"))


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts of opposite sentiment, and what became of all other rows.

    ``frame`` has a row a pair and the columns text and label (1 positive, 0 negative) of the text
    that was edited, counterfactual and counterfactual_label of what it became, row (of the source),
    and group: pairs of one text share it.
    """

    frame: pd.DataFrame
    refused: tuple[Refusal, ...]
    shape: str  # of the file, in words
    read_as: str  # where texts and labels are from
    same_label: int  # pairs left out, since the edit does not turn the label
    neutral: int  # texts left out

    def refused_frame(self) -> pd.DataFrame:
        """Return the refused rows as a frame: row, line, reason, excerpt."""
        return refused_frame(self.refused)

    def describe(self) -> str:
        """Say what is used and what is not."""
        positive = int(self.frame["label"].sum())
        said = [
            f"{amount(len(self.frame), 'pair')}, {positive:,} of them of a positive text "
            f"({self.shape})."
        ]
        if self.same_label:
            said.append(
                f"{amount(self.same_label, 'pair')} left out whose two texts have the same label."
            )
        if self.neutral:
            said.append(f"{amount(self.neutral, 'neutral text')} left out.")
        if self.refused:
            said.append(
                f"{amount(len(self.refused), 'row')} cannot be used: {reasons(self.refused)}."
            )
        return " ".join([*said, self.read_as])


def load_pairs(
    name: str | Path,
    *,
    contrast: str | Path | None = None,
    text: str | None = None,
    counterfactual: str | None = None,
    label: str | None = None,
    counterfactual_label: str | None = None,
    pair: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quoting: Quoting | None = None,
    header: bool | None = None,
) -> pd.DataFrame:
    """Return pairs of a file or of the hub: see `Pairs` for the columns, `find_pairs` for the rest.

    Args:
        name: a file (CSV, TSV, JSONL, Parquet, .gz of these) or "hub:owner/name".
        contrast: the file of the counterfactuals, row by row; by default, of ..._original.tsv, the
            ..._contrast.tsv that lies beside it.
        text: and `counterfactual`, the columns of the two texts, where a row is a pair.
        label: and `counterfactual_label`, those of their labels.
        pair: the column of the id that the rows of a pair share.
        mapping: and `neutral`, see ``labelling.label_rows``.
        encoding: and ``delimiter``, ``quoting``, ``header``, see ``read_file.read_table``.

    Raises:
        ValueError: there is no such file, no pair in it, or a column must be chosen.

    Warns:
        UserWarning: rows cannot be used.
    """
    reading = datasets.FileReading(
        text=text,
        label=label,
        mapping=None if mapping is None else tuple(mapping.items()),
        neutral=neutral,
        encoding=encoding,
        delimiter=delimiter,
        quoting=quoting,
        header=header,
    )
    _, found = read_pairs(
        name,
        reading,
        contrast=contrast,
        counterfactual=counterfactual,
        counterfactual_label=counterfactual_label,
        pair=pair,
    )
    if found.refused:
        warnings.warn(f"{name}: {found.describe()}", stacklevel=2)
    return found.frame


def read_pairs(
    name: str | Path,
    reading: datasets.FileReading,
    *,
    contrast: str | Path | None = None,
    counterfactual: str | None = None,
    counterfactual_label: str | None = None,
    pair: str | None = None,
) -> tuple[Table, Pairs]:
    """Read the pairs of a file or of the hub, and how it is written; as `load_pairs` does."""
    if name in datasets.BUILT_IN:
        raise UserError(
            f"The data set {name!r} has single texts; make pairs of them with `{COMMAND} "
            f"pairs --data {name} --out pairs.csv`, and load that file."
        )
    written = reading.of_table()
    table = read_paired(partial(datasets.load_table, name), written)
    beside = contrast or _beside(Path(name))
    other = None if beside is None else datasets.load_table(beside, **written)
    found = find_pairs(
        table,
        other,
        counterfactual=counterfactual,
        counterfactual_label=counterfactual_label,
        pair=pair,
        **reading.of_labels(),
    )
    return table, found


def read_paired(read: Callable[..., Table], written: Mapping[str, Any]) -> Table:
    """Read a table whose rows may be pairs.

    Its first row may name columns "positive" and "negative", which look like labels; and what
    SentiTrace wrote for spreadsheets is taken back.

    Args:
        read: takes `written`, the arguments of ``read_file.read_table``.
    """
    table = read(**written)
    open_header = written.get("header") is None and not table.header
    if open_header and _is_header(table.frame.iloc[0].tolist()):
        table = read(**{**written, "header": True})
    if table.form == "delimited" and set(MADE) <= set(table.columns):
        table = replace(table, frame=undefused(table.frame))
    return table


def are_named_as_contrast(texts: str, contrast: str) -> bool:
    """Whether two files are named as those of a contrast set: ..._original and ..._contrast."""
    return any(
        texts.partition(".")[0].endswith(ending) and texts.replace(ending, other, 1) == contrast
        for ending, other in _BESIDE
    )


def edited_pairs(frame: pd.DataFrame, before: pd.DataFrame) -> Pairs:
    """Read pairs that a person has edited, added to or dropped from.

    Args:
        frame: text, label, counterfactual, counterfactual_label; cells may be missing, and labels
            are words.
        before: the pairs as they were; those that are still there keep their other columns.

    Returns:
        The pairs with edit, before, after and same_length of those that were made of single texts;
        of all others the edit is "own".

    Raises:
        UserError: no two texts make a pair.
    """
    columns = ["text", "label", *PAIRED]
    written = frame[columns].astype("object").where(frame[columns].notna(), None)
    records = ({name: row[name] for name in columns} for _, row in written.iterrows())
    found = find_pairs(from_records(records, "The table"))
    keys = ["text", "counterfactual"]
    known = before.reindex(columns=[*keys, *MADE]).drop_duplicates(keys)
    told = found.frame.merge(known, on=keys, how="left", validate="m:1")
    edit = told["edit"].astype("object").fillna(OWN)
    return replace(found, frame=told.assign(edit=edit))


def find_pairs(
    table: Table,
    contrast: Table | None = None,
    *,
    text: str | None = None,
    counterfactual: str | None = None,
    label: str | None = None,
    counterfactual_label: str | None = None,
    pair: str | None = None,
    mapping: Mapping[str, Label | None] | None = None,
    neutral: tuple[float, float] | None = None,
) -> Pairs:
    """Find the pairs of a table, or of two tables row by row; arguments as in `load_pairs`.

    Raises:
        Question: it is not clear which columns hold the pairs, or what their labels mean.
        UserError: no two texts make a pair.
    """
    laid = lay_out(
        table,
        contrast,
        text=text,
        counterfactual=counterfactual,
        label=label,
        counterfactual_label=counterfactual_label,
        pair=pair,
    )
    return laid.pairs_by(mapping, neutral)


def lay_out(
    table: Table,
    contrast: Table | None = None,
    *,
    text: str | None = None,
    counterfactual: str | None = None,
    label: str | None = None,
    counterfactual_label: str | None = None,
    pair: str | None = None,
) -> Laid:
    """Put every text of a table's pairs in a row of its own; arguments as in `load_pairs`.

    Raises:
        Question: it is not clear which columns hold the pairs.
    """
    columns = {"text": text, "label": label}
    if contrast is not None:
        return _of_two_files(table, contrast, columns)
    if pair is None and (
        two := _two_columns(table, text, counterfactual, label, counterfactual_label)
    ):
        return _of_two_columns(table, *two)
    return _of_shared_id(table, pair, columns)


# --- shapes: every text of a pair in a row of its own ---------------------------------------------


@dataclass(frozen=True)
class Laid:
    """A table with a text in each row, and which of them make pairs."""

    table: Table  # its index counts the rows from 0
    pairs: Sequence[tuple[int, int]]  # rows of the text and of its counterfactual
    source: Sequence[int]  # the row of the file that each row is from
    refused: tuple[Refusal, ...]  # of the file
    shape: str
    chosen: dict[str, str | None]  # columns
    flipped: bool = False  # the counterfactuals have no label of their own

    def pairs_by(
        self,
        mapping: Mapping[str, Label | None] | None = None,
        neutral: tuple[float, float] | None = None,
    ) -> Pairs:
        """The pairs, by what the labels mean; see ``labelling.label_rows``.

        Raises:
            Question: it is not clear what the labels mean.
            UserError: no two texts make a pair.
        """
        text, label = self.chosen["text"], self.chosen["label"]
        labelled = label_rows(self.table, text=text, label=label, mapping=mapping, neutral=neutral)
        return _paired(self, labelled)


def _two_columns(
    table: Table,
    text: str | None,
    counterfactual: str | None,
    label: str | None,
    counterfactual_label: str | None,
) -> tuple[tuple[str, str], tuple[str | None, str | None]] | None:
    """The columns of the two texts and of their labels, of a table whose rows are pairs."""
    by_name = columns_by_name(table.columns)

    def both(names: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
        return next(
            ((by_name[one], by_name[two]) for one, two in names if {one, two} <= by_name.keys()),
            None,
        )

    if counterfactual is not None:
        texts: tuple[str, str] | None = (
            text or guess_by_name(table.columns)[0] or "",
            counterfactual,
        )
    else:
        texts = both(ONE_ROW) or both([BY_SENTIMENT])
    if texts is None:
        return None
    for column in (*texts, label, counterfactual_label):
        if column is not None and column not in table.columns:
            raise UserError(no_column(table, column))
    if label is not None or counterfactual_label is not None:
        return texts, (label or table.label, counterfactual_label)
    if tuple(map(plain_name, texts)) == BY_SENTIMENT:
        return texts, (None, None)
    return texts, both(LABELS_OF_TWO) or (table.label, None)


def _of_two_columns(
    table: Table, texts: tuple[str, str], labels: tuple[str | None, str | None]
) -> Laid:
    import pandas as pd

    count = len(table.frame)
    by_sentiment = tuple(map(plain_name, texts)) == BY_SENTIMENT and labels[0] is None
    if labels[0] is None and not by_sentiment:
        raise Question(
            f"It is not clear which column of {table.name} has the labels: choose one of "
            f"{listed(map(repr, table.columns))}.",
            "label",
            table.columns,
        )
    written: list[pd.Series[str]] = []
    for side, sentiment in enumerate(BY_SENTIMENT):
        column = labels[side] or labels[0]
        written.append(
            pd.Series([sentiment] * count, dtype="str")
            if column is None
            else table.frame[column].reset_index(drop=True)
        )
    frame = pd.DataFrame(
        {
            "text": pd.concat([table.frame[column] for column in texts], ignore_index=True),
            "label": pd.concat(written, ignore_index=True),
        }
    )
    return Laid(
        table=_laid_table(table, frame, np.tile(table.lines, 2)),
        pairs=[(row, count + row) for row in range(count)],
        source=table.frame.index.tolist() * 2,
        refused=table.refused,
        shape=f"a row a pair, {texts[0]!r} and {texts[1]!r}",
        chosen={"text": "text", "label": "label"},
        flipped=labels[1] is None and not by_sentiment,
    )


def _of_two_files(table: Table, contrast: Table, columns: Mapping[str, str | None]) -> Laid:
    import pandas as pd

    sizes = [len(each.frame) + len(each.refused) for each in (table, contrast)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{table.name} has {amount(sizes[0], 'row')} and {contrast.name} has {sizes[1]:,}: "
            "they do not belong together row by row."
        )
    chosen = [_named(each, columns) for each in (table, contrast)]
    frame = pd.concat(
        [
            each.frame[[own["text"], own["label"]]].set_axis(["text", "label"], axis=1)
            for each, own in zip((table, contrast), chosen, strict=True)
        ],
        ignore_index=True,
    )
    first = {row: place for place, row in enumerate(table.frame.index.tolist())}
    second = {row: len(first) + place for place, row in enumerate(contrast.frame.index.tolist())}
    return Laid(
        table=_laid_table(table, frame, np.concatenate([table.lines, contrast.lines])),
        pairs=[(place, second[row]) for row, place in first.items() if row in second],
        source=[*first, *second],
        refused=(*table.refused, *contrast.refused),
        shape=f"{table.name} and {contrast.name}, row by row",
        chosen={"text": "text", "label": "label"},
    )


def _of_shared_id(table: Table, pair: str | None, columns: Mapping[str, str | None]) -> Laid:
    by_name = columns_by_name(table.columns)
    shared = pair or next((by_name[name] for name in IDS if name in by_name), None)
    if shared is None:
        raise Question(
            f"{table.name} has no pairs that can be told by the names of its columns, "
            f"{listed(map(repr, table.columns))}: name the two columns of texts, or the column of "
            "the id that the two rows of a pair share.",
            "pair",
            table.columns,
        )
    if shared not in table.columns:
        raise UserError(no_column(table, shared))
    chosen = _named(table, columns)
    flag = next((by_name[name] for name in IS_ORIGINAL if name in by_name), None)
    frame = table.frame.reset_index(drop=True)
    originals, others = _members(frame, shared, flag)
    pairs = [
        (originals[key], row) for key, rows in others.items() if key in originals for row in rows
    ]
    return Laid(
        table=replace(table, frame=frame, refused=()),
        pairs=sorted(pairs),
        source=table.frame.index.tolist(),
        refused=table.refused,
        shape=f"rows that share {shared!r}",
        chosen=dict(chosen),
    )


def _members(
    frame: pd.DataFrame, shared: str, flag: str | None
) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Of each shared id the row of the text that was edited, and those of its edits."""
    originals: dict[str, int] = {}
    others: dict[str, list[int]] = {}
    edited = flag is not None and plain_name(flag) in ("is_counterfactual", "is_edit")
    keys = frame[shared].str.strip().tolist()
    flags = [None] * len(keys) if flag is None else frame[flag].tolist()
    for row, (key, told) in enumerate(zip(keys, flags, strict=True)):
        if not isinstance(key, str) or not key:
            continue
        said = told.strip().casefold() if isinstance(told, str) else ""
        if said in (*_TRUE, *_FALSE):
            is_original = (said in _TRUE) != edited
        else:
            is_original = key not in originals
        if is_original and key not in originals:
            originals[key] = row
        else:
            others.setdefault(key, []).append(row)
    return originals, others


def _named(table: Table, columns: Mapping[str, str | None]) -> dict[str, str]:
    """The columns of texts and labels, by the names of published pairs too."""
    by_name = columns_by_name(table.columns)
    found = {}
    for role, names in (("text", _TEXTS), ("label", _LABELS)):
        known = next((by_name[name] for name in names if name in by_name), None)
        column = columns[role] or known or (table.text if role == "text" else table.label)
        if column is None:
            raise Question(
                f"It is not clear which column of {table.name} has the {role}s: choose one of "
                f"{listed(map(repr, table.columns))}.",
                "text" if role == "text" else "label",
                table.columns,
            )
        if column not in table.columns:
            raise UserError(no_column(table, column))
        found[role] = column
    return found


def _laid_table(table: Table, frame: pd.DataFrame, lines: Any) -> Table:
    return replace(table, frame=frame, lines=lines, refused=(), text="text", label="label")


def _is_header(cells: Sequence[object]) -> bool:
    """Whether cells are the names of the two columns that look like labels themselves."""
    return {plain_name(cell) for cell in cells if isinstance(cell, str)} >= set(BY_SENTIMENT)


def _beside(path: Path) -> Path | None:
    """The file of a contrast set's counterfactuals, which lies beside that of its texts."""
    for ending, other in _BESIDE:
        if path.name.partition(".")[0].endswith(ending):
            beside = path.with_name(path.name.replace(ending, other, 1))
            if beside.is_file():
                return beside
    return None


# --- what is kept ---------------------------------------------------------------------------------


def _paired(laid: Laid, labelled: LabelledTable) -> Pairs:
    import pandas as pd

    read = labelled.frame
    known = dict(
        zip(
            read["row"].tolist(),
            zip(read["text"].tolist(), read["label"].tolist(), strict=True),
            strict=True,
        )
    )
    refused = [*laid.refused]
    for refusal in labelled.refused:
        refused.append(replace(refusal, row=laid.source[refusal.row]))
    rows: list[tuple[str, int, str, int, int]] = []
    same_label = 0
    for one, two in laid.pairs:
        if one not in known or two not in known:
            continue  # refused or neutral, and counted so
        (text, label), (other, other_label) = known[one], known[two]
        if laid.flipped:
            other_label = 1 - label
        if " ".join(text.split()) == " ".join(other.split()):
            line = int(laid.table.lines[two])
            refused.append(
                Refusal(laid.source[two], line, "the two texts are the same", excerpt(text))
            )
        elif label == other_label:
            same_label += 1
        else:
            rows.append((text, label, other, other_label, laid.source[one]))
    refused += _alone(laid)
    # Both texts of one row may lack the same.
    refused = list({(each.row, each.line, each.reason): each for each in refused}.values())
    refused.sort(key=lambda refusal: (refusal.row, refusal.line))
    if not rows:
        alike = [Refusal(0, 0, "the two texts have the same label", "")] * same_label
        raise no_usable_row(laid.table.name, [*refused, *alike], labelled.left_out)
    frame = pd.DataFrame(
        rows, columns=["text", "label", "counterfactual", "counterfactual_label", "row"]
    ).astype({"text": "str", "counterfactual": "str"})
    frame["group"] = text_groups(frame["text"])
    return Pairs(
        frame=frame,
        refused=tuple(refused),
        shape=laid.shape,
        read_as=labelled.read_as(),
        same_label=same_label,
        neutral=labelled.left_out,
    )


def _alone(laid: Laid) -> Iterator[Refusal]:
    """Rows that belong to no pair."""
    paired = {row for pair in laid.pairs for row in pair}
    texts = laid.table.frame[laid.chosen["text"]].fillna("").tolist()
    for row, text in enumerate(texts):
        if row not in paired:
            line = int(laid.table.lines[row])
            yield Refusal(
                laid.source[row], line, "no other row makes a pair with it", excerpt(text)
            )
