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

    def check_trace(self, tokens: int, samples: int) -> None:
        """Refuse a trace that is too large.

        Raises:
            ValueError: a limit is passed.
        """
        if self.tokens is not None and tokens > self.tokens:
            raise ValueError(
                f"The prompt has {tokens:,} tokens and this server traces at most "
                f"{self.tokens:,}; type a shorter tweet."
            )
        if self.samples is not None and samples > self.samples:
            raise ValueError(
                f"This server draws at most {self.samples:,} noise samples, not {samples:,}; "
                "choose fewer."
            )

    def check_texts(self, texts: int) -> None:
        """Refuse too many labelled texts.

        Raises:
            ValueError: there are more than the limit.
        """
        if self.texts is not None and texts > self.texts:
            raise ValueError(
                f"There are {texts:,} texts and this server trains on at most {self.texts:,}; "
                "give a part of them."
            )

    def check_sweeps(self, begun: int) -> None:
        """Refuse one more sweep.

        Args:
            begun: by the same browser session before.

        Raises:
            ValueError: that were as many as are allowed.
        """
        if self.sweeps is not None and begun >= self.sweeps:
            raise ValueError(
                f"This server runs at most {self.sweeps:,} sweeps for one visitor, and these have "
                "been run; install SentiTrace on your own machine for more."
            )

    def check_model(self, name: str, *, on_disk: bool) -> None:
        """Refuse a model that a visitor may not have loaded.

        Args:
            name: as `load_model` takes it: a registry key, a hub id or a local folder.
            on_disk: whether the registry key or hub id has been fetched already.

        Raises:
            ValueError: a local folder outside the root for such folders, or, on a public server, a
                model that would have to be downloaded.
        """
        if on_disk:
            return
        if Path(name).is_dir():
            self._check_folder(name)
        elif self.public:
            raise ValueError(
                f"The model {name!r} is not on this server, which downloads none for visitors; "
                "choose one that is."
            )

    def check_owner(self, what: str) -> None:
        """Refuse what only the server's owner may do, where it is public.

        Args:
            what: for the sentence, such as "Removing a model".

        Raises:
            ValueError: the server is public.
        """
        if self.public:
            raise ValueError(f"{what} is for the owner of this server alone; ask whoever runs it.")

    def _check_folder(self, name: str) -> None:
        if self.folders is None and not self.public:
            return
        # Links are followed first, so that none leads out of the root.
        if self.folders is None or not Path(name).resolve().is_relative_to(self.folders.resolve()):
            raise ValueError(
                f"The folder {name!r} is not among the models that this server offers; choose one "
                "of the list."
            )


def limits(environment: Mapping[str, str] | None = None) -> Limits:
    """The limits that hold now.

    Args:
        environment: instead of the process's own.

    Raises:
        ValueError: a variable holds what is no number.
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
        raise ValueError(f"{variable} is {written!r}; set it to a whole number above 0.")
    return int(written)
