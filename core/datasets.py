"""Labelled texts as one tidy frame, whatever they come from.

The built-in sets are the four of Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based Model
for Sentiment Analysis of Social Media Text", ICWSM: tweets and three kinds of snippets, each text
with the mean rating that twenty people gave it between -4 (extremely negative) and 4 (extremely
positive). The label is the sign of the rating; texts that people found close to neutral are left
out, because a sign says nothing there. ``core.setup`` fetches them once.
"""

import hashlib
import html
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.cache import home

if TYPE_CHECKING:
    import pandas as pd

MAX_RATING = 4.0


@dataclass(frozen=True)
class BuiltIn:
    """A data set that set-up prepares: what it is and which file of the VADER archive holds it."""

    key: str
    title: str
    member: str  # file name within the archive's folder
    rows: int  # texts before any is left out by its rating
    licence: str = "MIT (vaderSentiment)"
    citation: str = "Hutto & Gilbert (2014), ICWSM"


BUILT_IN: dict[str, BuiltIn] = {
    entry.key: entry
    for entry in (
        BuiltIn("vader-tweets", "Tweets", "tweets_GroundTruth.txt", 4200),
        BuiltIn(
            "vader-movies", "Movie review snippets", "movieReviewSnippets_GroundTruth.txt", 10605
        ),
        BuiltIn(
            "vader-products",
            "Product review snippets",
            "amazonReviewSnippets_GroundTruth.txt",
            3708,
        ),
        BuiltIn(
            "vader-news",
            "Newspaper editorial snippets",
            "nytEditorialSnippets_GroundTruth.txt",
            5190,
        ),
    )
}


def dataset_file(key: str) -> Path:
    """Return where the prepared texts of the built-in data set ``key`` lie, there or not."""
    return home() / "datasets" / f"{key}.parquet"


def load_dataset(name: str, *, min_rating: float = 0.5) -> "pd.DataFrame":
    """Return the texts of the built-in data set ``name`` that people did not find neutral.

    The frame has one row a text, in the order of the source, and the columns text (str), label
    (1 positive, 0 negative), rating (mean human rating in [-4, 4]) and row (zero-based row of the
    source). Texts with ``abs(rating) < min_rating`` are left out, and those rated exactly 0, which
    have no sign. Raises ValueError for an unknown name, an impossible ``min_rating``, or a data set
    that set-up has not fetched yet.
    """
    import pandas as pd

    if name not in BUILT_IN:
        raise ValueError(f"There is no data set {name!r}: choose one of {', '.join(BUILT_IN)}.")
    if not (math.isfinite(min_rating) and 0 <= min_rating <= MAX_RATING):
        raise ValueError(
            f"min_rating is {min_rating!r}, but ratings reach from 0 (neutral) to {MAX_RATING:g}: "
            "choose a number between those."
        )
    file = dataset_file(name)
    if not file.is_file():
        raise ValueError(
            f"The data set {name!r} has not been fetched yet: run `python -m core setup` first."
        )
    everything = pd.read_parquet(file)
    rated = everything["rating"].abs()
    kept = everything[(rated >= min_rating) & (rated > 0)].reset_index(drop=True)
    kept.insert(1, "label", (kept["rating"] > 0).astype("int64"))
    return kept


def read_ratings(raw: bytes) -> "pd.DataFrame":
    """Read one file of the VADER archive: a line a text, of id, mean rating and text between tabs.

    Returns the columns text (HTML entities and surrounding white space removed), rating and row.
    The bytes are read as UTF-8 ("español"), and as Latin-1 where they are not UTF-8. Raises
    ValueError when a line is not of this form.
    """
    import pandas as pd

    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError:
        content = raw.decode("latin-1")
    texts, ratings = [], []
    # Not splitlines(), which also splits at characters that a text may hold.
    for number, line in enumerate(content.replace("\r\n", "\n").rstrip("\n").split("\n"), start=1):
        fields = line.split("\t", maxsplit=2)
        if len(fields) != 3:
            raise ValueError(
                f"Line {number} has {len(fields)} fields between tabs, not 3: {line!r}."
            )
        ratings.append(float(fields[1]))
        # Twice, because a few texts were escaped twice on their way ("&amp;#39;").
        texts.append(html.unescape(html.unescape(fields[2])).strip())
    return pd.DataFrame({"text": texts, "rating": ratings, "row": range(len(texts))})


def fingerprint(frame: "pd.DataFrame") -> str:
    """Return a SHA-256 over the texts and labels of ``frame``, in order: 64 hexadecimal digits.

    It depends on nothing but the columns text and label, so it stays the same over versions of
    pandas and Python. Lengths go in with the texts, so no two frames run together into one.
    """
    digest = hashlib.sha256()
    for text, label in zip(frame["text"], frame["label"], strict=True):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:{int(label)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()
