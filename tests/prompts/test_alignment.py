"""Prompts after an edit: what is common corresponds, and every edit is a span of both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.prompts.alignment import align, end_to_end


def spelled(own: str, other: str) -> list[tuple[str, str]]:
    """The edits between two texts of a letter a token; the last letter is the suffix."""
    found = align([*map(ord, own)], [*map(ord, other)], range(len(own) - 1))
    return [(own[a.start : a.stop], other[b.start : b.stop]) for a, b in found.edits]


@pytest.mark.parametrize(
    ("own", "other", "edits"),
    [
        ("aXc.", "aYZc.", [("X", "YZ")]),
        ("aWXc.", "aYc.", [("WX", "Y")]),
        ("abc.", "aNbc.", [("b", "Nb")]),  # put before b, which is taken in
        ("aNbc.", "abc.", [("Nb", "b")]),
        ("ab.", "abN.", [("b", "bN")]),  # at the end of the tweet: what stands before
        ("abN.", "ab.", [("bN", "b")]),
        ("Xbcd.", "YYbcNd.", [("X", "YY"), ("d", "Nd")]),
        ("aXb.", "aYbNN.", [("X", "Y"), ("b", "bNN")]),
        ("aab.", "aaab.", [("a", "aa")]),  # which of equal tokens is new cannot be told
        ("abcb.", "aNbNcb.", [("b", "Nb"), ("c", "Nc")]),
    ],
)
def test_edits_are_spans_of_both(own, other, edits):
    assert spelled(own, other) == edits


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.sampled_from(["last", "all"]),
)
def test_sites_are_in_order_and_common_tokens_are_equal(own, other, edited):
    suffix = [7, 8, 9]
    ids, others = [*own, *suffix], [*other, *suffix]
    found = align(ids, others, range(len(own)))
    sites = found.sites(edited)
    in_edits = [set().union(*(map(set, side))) for side in zip(*found.edits, strict=True)] or [
        set()
    ] * 2
    ends = (-1, -1)
    for last, (mine, its) in sites.items():
        assert mine[-1] == last
        assert mine.start > ends[0]
        assert its.start > ends[1]
        ends = mine[-1], its[-1]
        if last not in in_edits[0]:
            assert ids[last] == others[its[0]]
            assert len(mine) == len(its) == 1
    assert ends == (len(ids) - 1, len(others) - 1)
    # What is no site is inside an edit; what is common has one.
    assert set(range(len(ids))) - in_edits[0] <= set(sites)
    assert len(ids) - len(in_edits[0]) == len(others) - len(in_edits[1])
    if edited == "all":
        assert sorted(t for mine, _ in sites.values() for t in mine) == list(range(len(ids)))
        assert sorted(t for _, its in sites.values() for t in its) == list(range(len(others)))
    assert set(found.edited) == in_edits[0]
    assert (own == other) == (found.edits == ())


def test_spans_correspond_end_to_end():
    assert end_to_end(range(4, 8), range(2, 4)) == [2, 2, 3, 3]
    assert end_to_end(range(4, 6), range(2, 7)) == [2, 6]
    assert end_to_end(range(4, 5), range(2, 7)) == [6]
    assert end_to_end(range(4, 7), range(9, 10)) == [9, 9, 9]
    assert end_to_end(range(4, 7), range(1, 4)) == [1, 2, 3]
