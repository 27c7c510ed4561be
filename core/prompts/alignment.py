"""Which positions of two prompts correspond, where one is the other after an edit?

A counterfactual seldom has as many tokens as its tweet. What both have in common stands before,
between and after the edits and corresponds token by token, wherever it stands; an edited span of
one corresponds to the edited span of the other as a whole. Common are the longest runs of equal
tokens (Ratcliff and Obershelp's matching, as in `difflib`), the two ends first.

Where one side of an edit has no token ("good" after "not" was put before it), the token beside it
is taken in: what follows it in the tweet, at the tweet's end what stands before. So every edit is a
span of both prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Edited = Literal["last", "all"]
Site = tuple[range, range]
"""The neighbouring positions of one site, in the prompt itself and in the other one."""


@dataclass(frozen=True)
class Alignment:
    """The edits between a prompt and another one; all else is common, in order."""

    length: int  # tokens of the prompt
    other: tuple[int, ...]  # token ids of the other one
    edits: tuple[Site, ...]

    def sites(self, edited: Edited) -> dict[int, Site]:
        """Each site by its last position in the prompt.

        Args:
            edited: of an edited span, its last token alone or all of it at once; other tokens of
            it have no site.
        """
        found: dict[int, Site] = {}
        own = other = 0
        for edit in (*self.edits, _end(self.length, len(self.other))):
            for position in range(own, edit[0].start):
                place = other + position - own
                found[position] = _only(position), _only(place)
            if edit[0]:
                last = edit[0][-1]
                found[last] = edit if edited == "all" else (_only(last), _only(edit[1][-1]))
            own, other = edit[0].stop, edit[1].stop
        return found

    @property
    def edited(self) -> tuple[int, ...]:
        """The prompt's positions that are edited."""
        return tuple(position for own, _ in self.edits for position in own)


def align(ids: Sequence[int], other: Sequence[int], tweet: Sequence[int]) -> Alignment:
    """Align two prompts by their tokens.

    Args:
        tweet: positions of the prompt's own tweet, of which each edit has a token where it can.
    """
    after = _common(ids[::-1], other[::-1], len(tweet))
    ends = len(ids) - after, len(other) - after
    before = _common(ids[: ends[0]], other[: ends[1]], len(ids))
    matcher = SequenceMatcher(None, ids[before : ends[0]], other[before : ends[1]], autojunk=False)
    edits: list[Site] = []
    for tag, *bounds in matcher.get_opcodes():
        if tag == "equal":
            continue
        start, stop, other_start, other_stop = (bound + before for bound in bounds)
        if start == stop or other_start == other_stop:
            if stop < len(ids) and (stop in tweet or start - 1 not in tweet):
                stop, other_stop = stop + 1, other_stop + 1
            else:
                start, other_start = start - 1, other_start - 1
        if edits and start < edits[-1][0].stop:  # both took in the one token between them
            start, other_start = edits[-1][0].start, edits[-1][1].start
            edits.pop()
        edits.append((range(start, stop), range(other_start, other_stop)))
    return Alignment(len(ids), tuple(other), tuple(edits))


def end_to_end(span: range, other: range) -> list[int]:
    """Positions of the other span that those of a span correspond to: the ends to the ends, evenly
    between them; of a single one the last."""
    if len(span) == 1:
        return [other[-1]]
    scale = (len(other) - 1) / (len(span) - 1)
    return [other[round(number * scale)] for number in range(len(span))]


def _only(position: int) -> range:
    return range(position, position + 1)


def _end(length: int, other: int) -> Site:
    return range(length, length), range(other, other)


def _common(one: Sequence[int], two: Sequence[int], most: int) -> int:
    """How many tokens two prompts have in common at their beginning."""
    count = 0
    while count < min(len(one), len(two)) and one[count] == two[count]:
        count += 1
    return count
