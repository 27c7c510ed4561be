"""What may one visitor ask of this server? Read from the environment, in this one place.

A dashboard on a person's own machine has no limits but those that keep it from breaking. One that
serves strangers is started with SENTITRACE_PUBLIC=1: local folders, downloads and the removal of
models are off, and each visitor's work is bounded. Every limit has a variable of its own, which
counts in both cases; docs/security.md lists them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

PUBLIC = "SENTITRACE_PUBLIC"
SIGN_IN = "SENTITRACE_SIGN_IN"
FOLDERS = "SENTITRACE_FOLDERS"
NUMBERS = {
    "upload_megabytes": "SENTITRACE_MAX_UPLOAD_MB",
    "tokens": "SENTITRACE_MAX_TOKENS",
    "samples": "SENTITRACE_MAX_SAMPLES",
    "texts": "SENTITRACE_MAX_TEXTS",
    "sweeps": "SENTITRACE_MAX_SWEEPS",
}
MOST_MEGABYTES = 200  # as Streamlit's server.maxUploadSize in .streamlit/config.toml
OWN: dict[str, int | None] = {
    "upload_megabytes": MOST_MEGABYTES,
    "tokens": None,
    "samples": None,
    "texts": None,
    "sweeps": None,
}
FOR_STRANGERS: dict[str, int | None] = {
    "upload_megabytes": 20,
    "tokens": 128,
    "samples": 20,
    "texts": 5000,
    "sweeps": 2,
}


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for; None where there is no limit.

    Attributes:
        public: whether the server is for strangers.
        sign_in: whether a visitor has to sign in first (Streamlit's OIDC).
        upload_megabytes: of one file.
        tokens: of one prompt, suffix included.
        samples: noise samples of one trace.
        texts: that one probe is trained on.
        sweeps: that one browser session may begin.
        folders: where local model folders may lie; None allows any, unless the server is public.
    """

    public: bool = False
    sign_in: bool = False
    upload_megabytes: int = MOST_MEGABYTES
    tokens: int | None = None
    samples: int | None = None
    texts: int | None = None
    sweeps: int | None = None
    folders: Path | None = None

    def check_tokens(self, tokens: int, *, among: int = 1) -> None:
        """Refuse a prompt that is too long.

        Args:
            tokens: of the longest prompt.
            among: how many prompts there are.

        Raises:
            UserError: it has more than the limit.
        """
        if self.tokens is not None and tokens > self.tokens:
            whose, remedy = (
                ("The prompt", "type a shorter tweet")
                if among == 1
                else ("The longest prompt", "choose shorter tweets")
            )
            raise UserError(
                f"{whose} has {tokens:,} tokens and this server reads at most {self.tokens:,}; "
                f"{remedy}."
            )

    def check_samples(self, samples: int) -> None:
        """Refuse too many noise samples of a trace.

        Raises:
            UserError: there are more than the limit.
        """
        if self.samples is not None and samples > self.samples:
            raise UserError(
                f"This server draws at most {self.samples:,} noise samples, not {samples:,}; "
                "choose fewer."
            )

    def check_texts(self, texts: int) -> None:
        """Refuse too many labelled texts.

        Raises:
            UserError: there are more than the limit.
        """
        if self.texts is not None and texts > self.texts:
            raise UserError(
                f"There are {texts:,} texts and this server trains on at most {self.texts:,}; "
                "give a part of them."
            )

    def check_sweeps(self, begun: int) -> None:
        """Refuse one more sweep.

        Args:
            begun: by the same browser session before.

        Raises:
            UserError: that were as many as are allowed.
        """
        if self.sweeps is not None and begun >= self.sweeps:
            raise UserError(
                f"This server runs at most {self.sweeps:,} sweeps for one visitor, and these have "
                "been run; install SentiTrace on your own machine for more."
            )

    def check_model(self, name: str, *, on_disk: bool) -> None:
        """Refuse a model that a visitor may not have loaded.

        Args:
            name: as `load_model` takes it: a registry key, a hub id or a local folder.
            on_disk: whether the registry key or hub id has been fetched already.

        Raises:
            UserError: a local folder outside the root for such folders, or, on a public server, a
                model that would have to be downloaded.
        """
        if on_disk or (self._is_offered(name) and Path(name).is_dir()):
            return
        if self.public:  # the same, whether or not there is such a folder
            raise UserError(
                f"The model {name!r} is not on this server, which downloads none for visitors; "
                "choose one that is."
            )
        if self.folders is not None and Path(name).is_dir():
            raise UserError(
                f"The folder {name!r} is not among the models that this server offers; choose one "
                "of the list."
            )

    def check_owner(self, what: str) -> None:
        """Refuse what only the server's owner may do, where it is public.

        Args:
            what: for the sentence, such as "Removing a model".

        Raises:
            UserError: the server is public.
        """
        if self.public:
            raise UserError(f"{what} is for the owner of this server alone; ask whoever runs it.")

    def _is_offered(self, folder: str) -> bool:
        if self.folders is None:
            return not self.public
        # Links are followed first, so that none leads out of the root.
        return Path(folder).resolve().is_relative_to(self.folders.resolve())


def limits(environment: Mapping[str, str] | None = None) -> Limits:
    """The limits that hold now.

    Args:
        environment: instead of the process's own.

    Raises:
        UserError: a variable holds what is no number.
    """
    said = os.environ if environment is None else environment
    public = _is_on(said, PUBLIC)
    defaults = FOR_STRANGERS if public else OWN
    folders = said.get(FOLDERS, "")
    return Limits(
        public=public,
        sign_in=_is_on(said, SIGN_IN),
        folders=Path(folders) if folders else None,
        upload_megabytes=_number(said, "upload_megabytes", defaults) or MOST_MEGABYTES,
        tokens=_number(said, "tokens", defaults),
        samples=_number(said, "samples", defaults),
        texts=_number(said, "texts", defaults),
        sweeps=_number(said, "sweeps", defaults),
    )


def _is_on(said: Mapping[str, str], variable: str) -> bool:
    return said.get(variable, "") not in ("", "0")


def _number(said: Mapping[str, str], name: str, defaults: Mapping[str, int | None]) -> int | None:
    variable = NUMBERS[name]
    written = said.get(variable, "").strip()
    if not written:
        return defaults[name]
    if not (written.isascii() and written.isdecimal() and int(written) > 0):
        raise UserError(f"{variable} is {written!r}; set it to a whole number above 0.")
    return int(written)
