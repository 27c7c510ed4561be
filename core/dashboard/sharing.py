"""How does a view travel? As a link, and as code that makes its result again, beside "Save".

A link says what was asked and how it is shown. Where an address cannot say it, or only in too many
characters, the settings are kept on this server when a person asks for that, and the link has their
id. Whatever a link asks begins like what is typed: by `core.dashboard.start`, through the door.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode

import streamlit as st

from ..errors import UserError
from ..exporting import embedded_settings
from ..exporting.settings_files import Settings, read_settings
from ..models.registry import REGISTRY, is_on_disk
from ..probes.library import is_kept
from ..server.limits import limits
from ..storage import kept_settings
from . import job, plain

if TYPE_CHECKING:
    from ..exporting.code import Code
    from ..probes.probe import Probe

LONGEST = 1900
"""Characters of an address; chats and mail programs cut longer ones."""

SETTINGS = "settings"
"""The parameter that has an id of kept settings."""

Query = Mapping[str, str | list[str]]


class Repeatable(Protocol):
    """What a recipe is to a file: a JSON text."""

    def to_json(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Share:
    """What a link and code are made from.

    Attributes:
        slot: of the job whose result is shown.
        question: the parameters that ask for it; None where an address cannot.
        shown: those that say how it is shown.
        code: makes the code; None where there is none.
        probes: that the settings hold.
    """

    slot: str
    question: Query | None
    shown: Query
    code: Callable[[], Code] | None = None
    probes: Sequence[Probe] = ()

    @property
    def link(self) -> str | None:
        """The link, where an address can say it all."""
        if self.question is None:
            return None
        link = _link({**self.question, **self.shown})
        return link if len(link) <= LONGEST else None


def kept(slot: str) -> str:
    """The id under which the shown result's settings are kept; "" where they are not."""
    id, of = st.session_state.get(f"kept:{slot}", ("", None))
    return str(id) if of is not None and of is job(slot) else ""


def note_kept(slot: str, id: str) -> None:
    """Remember that the result of a slot's job is that of kept settings."""
    st.session_state[f"kept:{slot}"] = (id, job(slot))


def linked_settings() -> tuple[str, Settings] | None:
    """The id in the address, and the settings that are kept under it; None without an id.

    Raises:
        UserError: none are kept, or they cannot be used.
    """
    id = st.query_params.get(SETTINGS, "")
    if not id:
        return None
    return id, read_settings(kept_settings.find(id), "of this link")


def can_be_linked(name: str) -> bool:
    """Whether an address may name a model: one of the list, or a hub id that is on this disk.

    A folder is never named: an address may come from anybody.
    """
    return name in REGISTRY or (name.count("/") == 1 and is_on_disk(name))


def write(query: Query) -> None:
    """Put parameters into the page's address."""
    now = {key: st.query_params.get_all(key) for key in st.query_params}
    new = {key: [value] if isinstance(value, str) else list(value) for key, value in query.items()}
    if now != new:
        st.query_params.from_dict(new)


def refuse(sentence: str) -> None:
    """Have the page say in its next drawing why a link is not followed."""
    st.session_state["link:refused"] = sentence


def say_refused() -> None:
    """Say why a link was not followed, once."""
    if sentence := st.session_state.pop("link:refused", ""):
        st.error(plain(sentence), icon=":material/link_off:")


def one_of(options: Collection[str]) -> Callable[[str], Any]:
    """Reads one of a few words out of an address; raises ValueError for any other."""

    def read(value: str) -> str:
        if value not in options:
            raise ValueError(value)
        return value

    return read


def within(low: float, high: float, kind: type) -> Callable[[str], Any]:
    """Reads a number between two out of an address; raises ValueError for anything else."""

    def read(value: str) -> Any:
        number = kind(value)
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return read


# --- in the popover ------------------------------------------------------------------------------


def link_choice(key: str, share: Share, recipe: Callable[[], Repeatable] | None) -> None:
    """The link to this view; a button that makes it where the settings have to be kept."""
    link = share.link
    if link is None and recipe is not None:
        settings = recipe().to_json()
        made = st.session_state.get(f"link:{key}")
        if made is None or made[0] != settings:
            st.caption("What was asked does not fit into an address.")
            if _may_be_kept(share) and st.button(
                "Make a short link",
                key=f"link:{key}:keep",
                icon=":material/link:",
                help="Keeps the settings, and the text in them, on this server.",
            ):
                try:
                    made = st.session_state[f"link:{key}"] = (
                        settings,
                        kept_settings.keep(settings),
                    )
                except UserError as mistake:
                    st.error(plain(str(mistake)))
                else:
                    note_kept(share.slot, made[1])
        if made is not None and made[0] == settings:
            link = _link({SETTINGS: made[1], **share.shown})
    if link is not None:
        st.code(link, language=None, wrap_lines=True)
    st.caption("The link opens this view on this server; for another, send the settings file.")
    _settings_button(key, "link", recipe)


def code_choice(key: str, share: Share, form: str, recipe: Callable[[], Repeatable] | None) -> None:
    """The code of this result, in Python or as a command."""
    assert share.code is not None
    code = share.code()
    written = code.python if form == "python" else code.command
    if not written:
        st.caption("The texts are not among the built-in data: train it from their file.")
        return
    st.code(written, language="python" if form == "python" else "shell", wrap_lines=True)
    if code.file:
        st.caption("Reads the settings file beside it, since it cannot be said in arguments.")
        _settings_button(key, form, recipe)
    elif form == "command":
        st.caption("For a POSIX shell.")


def _settings_button(key: str, place: str, recipe: Callable[[], Repeatable] | None) -> None:
    if recipe is not None:
        st.download_button(
            "Settings",
            lambda: recipe().to_json(),
            file_name=embedded_settings.SETTINGS,
            mime="application/json",
            key=f"share:{key}:{place}:settings",
            on_click="ignore",
        )


def _may_be_kept(share: Share) -> bool:
    """Of a visitor's own file a public server keeps nothing, and so no probe of it either."""
    if not limits().public or all(probe.is_contrast or is_kept(probe) for probe in share.probes):
        return True
    st.caption("Its probe is of a file of your own, which this server does not keep.")
    return False


def _link(query: Query) -> str:
    return f"{st.context.url or ''}?{urlencode(query, doseq=True)}"
