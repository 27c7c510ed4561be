"""How does a name become a model: its files, checked, its device and precision?"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from safetensors import SafetensorError

from ..distribution import COMMAND
from ..errors import UserError
from ..showing import counter
from . import cpu_kernels, cuda_precision, hub
from .families import (
    FAMILIES,
    Family,
    UnsupportedModel,
    check_architecture,
    check_config,
    read_json,
)
from .identity import of_folder, of_model, tokenizer_files
from .model import Model
from .parts_check import check_once
from .registry import EMBEDDED, REGISTRY, is_on_disk, model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,  # float32 whose products CUDA makes in TF32; elsewhere plain float32
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

TWIN_SEED = 0
"""Seed of every untrained twin, so that a twin is one model and not a new one at each load."""


def default_device() -> torch.device:
    """CUDA if there, else MPS, else CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"The device {str(device)!r} cannot be used here; leave it out to run on "
            f"{default_device().type}."
        ) from error
    return found


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    untrained: bool = False,
    family: Family | None = None,
    progress: Callable[[int, int], None] | Literal[True] | None = None,
) -> Model:
    """Load a model by registry key, hub id or local folder; a hub id is downloaded once.

    Args:
        name: for example "gpt2", "EleutherAI/pythia-160m" or "./my-model".
        device: default CUDA if there, else MPS, else CPU.
        dtype: one of `DTYPES`; float32 by default.
        untrained: the twin, the same shape with random weights of the model's own initialiser.
        family: where its parts are, for an architecture without a row in
            `core.models.families.FAMILIES`. A model that is loaded for the first time is run once
            in parts and once whole (`core.models.parts_check`).
        progress: called with (bytes done, bytes in all) while a model is downloaded. True draws a
            bar.

    Raises:
        UnsupportedModel: the family is not supported, its parts do not give what the model says,
            or there are no safetensors.
        UserError: the model is neither known, nor on disk, nor on the hub, or another one of this
            process multiplies in another precision (`core.models.cuda_precision`).
    """
    from transformers import AutoConfig

    if dtype not in DTYPES:
        raise UserError(f"The dtype {dtype!r} is not known; choose one of {', '.join(DTYPES)}.")
    folder = _find_folder(str(name), counter(progress, f"Fetching {name}"), family)
    check_config(folder / "config.json", family)
    target = default_device() if device is None else _usable(device)
    with _Reading(folder / "config.json", "does not describe a model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_architecture(config, str(name), family)
    attention = (family or FAMILIES[config.model_type]).attention
    tokenizer = _load_tokenizer(folder)
    if untrained:
        with _Reading(folder / "config.json", "does not describe a model"), _seeded(TWIN_SEED):
            network = _causal_model().from_config(
                config, dtype=DTYPES[dtype], attn_implementation=attention, trust_remote_code=False
            )
    else:
        network = _load_network(folder, DTYPES[dtype], attention)
    if tokenizer.vocab_size > network.get_input_embeddings().weight.shape[0]:
        raise UnsupportedModel(
            f"The tokenizer in {folder} has {tokenizer.vocab_size:,} tokens, more than the "
            f"{network.get_input_embeddings().weight.shape[0]:,} that the model embeds; put the "
            "model's own tokenizer there."
        )
    if target.type == "cpu":
        cpu_kernels.use_physical_cores()
    elif target.type == "cuda":
        cuda_precision.decide(dtype)
    origin = of_folder(folder)
    if family is not None:
        origin += f"-{_digest_of(family)}"  # its parts may be others than those of a built-in row
    model = Model(
        network.to(target).requires_grad_(False),
        tokenizer,
        name=f"{name} (untrained)" if untrained else str(name),
        identity=f"untrained-{TWIN_SEED}-{origin}" if untrained else origin,
        revision=(hub.describe_folder(folder) or {}).get("revision"),
        untrained=untrained,
        precision=dtype,
        family=family,
    )
    check_once(model)
    return model


def _digest_of(family: Family) -> str:
    """Of what a row says; what it leaves at its default is no part of it."""
    said = {
        field.name: getattr(family, field.name)
        for field in fields(family)
        if getattr(family, field.name) != field.default
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def identity_on_disk(name: str, *, dtype: str = "float32") -> str | None:
    """The identity that a model would be loaded with by its key or hub id; None where it is not
    on this disk."""
    return of_model(of_folder(model_folder(name)), dtype) if is_on_disk(name) else None


def _load_network(folder: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The network with the weights of a folder, every one of them and no other."""
    _check_files(folder)
    try:
        with _Reading(folder, "cannot be loaded"):
            network, found = _causal_model().from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation=attention,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise UserError(
            f"The weights in {folder} are damaged ({error}); remove that folder and fetch the "
            "model again."
        ) from error
    _check_weights(folder, found)
    return cast("PreTrainedModel", network)


_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"

_MADE_ANEW = re.compile(r"\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)$")
"""Buffers that older versions saved, and that every network makes for itself: the rotary
frequencies and the causal mask."""


def _check_files(folder: Path) -> None:
    """Refuse a folder in which a file of weights is missing."""
    if (folder / _WEIGHTS).is_file():
        return
    if (folder / _INDEX).is_file():
        named = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UnsupportedModel(f"The file {folder / _INDEX} names no weights; fetch it again.")
        files = sorted({str(file) for file in named.values()})
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise UnsupportedModel(
                f"The weights in {folder} are not whole: {missing[0]!r} is missing"
                f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''} of {len(files)} "
                "files; fetch the model again."
            )
        return
    if any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f"The folder {folder} has neither {_WEIGHTS} nor {_INDEX}; fetch the model again, or "
            "save it there with `save_pretrained`."
        )
    raise UnsupportedModel(
        f"The model in {folder} has no safetensors file; other weight files are not "
        "loaded because they can run code. Save it with safe serialisation first."
    )


def _check_weights(folder: Path, found: Mapping[str, Any]) -> None:
    """Refuse weights that leave a part of the network random, or that it has no place for."""
    wrong = []
    for name, theirs, ours in sorted(found["mismatched_keys"])[:1]:
        count = len(found["mismatched_keys"])
        wrong.append(
            f"{_counted(count, 'has another shape', 'have another shape')} ({name!r}: "
            f"{tuple(theirs)} instead of {tuple(ours)})"
        )
    unknown = [name for name in found["unexpected_keys"] if not _MADE_ANEW.search(name)]
    for names, one, several in (
        (found["missing_keys"], "is missing", "are missing"),
        (unknown, "has no place in it", "have no place in it"),
    ):
        if names:
            first = "" if len(names) == 1 else "the first "
            wrong.append(f"{_counted(len(names), one, several)} ({first}{min(names)!r})")
    if wrong:
        raise UnsupportedModel(
            f"The weights in {folder} are not those of the causal language model that its "
            f"config.json describes: {', '.join(wrong)}; save the whole model there with "
            "`save_pretrained`."
        )


def _counted(count: int, one: str, several: str) -> str:
    return f"1 weight {one}" if count == 1 else f"{count} weights {several}"


def load_tokenizer(
    name: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> PreTrainedTokenizerFast:
    """The tokenizer of a model alone; no weights are read.

    Args:
        name: as for `load_model`.
        progress: called with (bytes done, bytes in all) while a model is downloaded.

    Raises:
        UnsupportedModel: there is none, or it gives no character offsets.
        UserError: the model is neither known, nor on disk, nor on the hub.
    """
    folder = _find_folder(str(name), progress, None)
    path = folder / "tokenizer.json"
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _kept_tokenizer(folder, stamp)


def has_chat_template(name: str | Path) -> bool:
    """Whether a model on this disk says how a chat with it is written; no tokenizer is read."""
    folder = model_folder(str(name)) if is_on_disk(str(name)) else Path(name)
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        held = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and bool(held.get("chat_template"))


@lru_cache(maxsize=8)
def _kept_tokenizer(folder: Path, stamp: int) -> PreTrainedTokenizerFast:
    """Read again only when its file has changed: a vocabulary takes a while."""
    return _load_tokenizer(folder)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    settings = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    if {path.name for path in tokenizer_files(folder)} <= settings:
        raise UnsupportedModel(
            f"The folder {folder} holds no tokenizer; put the model's tokenizer.json there."
        )
    if (folder / "tokenizer.json").is_file():
        read_json(folder / "tokenizer.json")  # says in a sentence what is wrong with it
    with _Reading(folder, "has no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, use_fast=True, trust_remote_code=False, local_files_only=True
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UnsupportedModel(
            f"The tokenizer in {folder} gives no character offsets; "
            "add its tokenizer.json (a fast tokenizer)."
        )
    return tokenizer


class _Reading:
    """Within the context, what transformers cannot make of a file becomes a sentence.

    Not an `except`: the tokenizers library raises `Exception` itself, and only that very class is
    meant.
    """

    _RAISED = (
        OSError,
        ImportError,
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RuntimeError,
    )

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        from huggingface_hub.errors import StrictDataclassError

        if error is None or isinstance(error, torch.OutOfMemoryError):
            return
        if kind is Exception or isinstance(error, (*self._RAISED, StrictDataclassError)):
            lines = [line.strip(" .:") for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            raise UnsupportedModel(
                f"{self._path} {self._what} ({reason}); fetch the model again, or save it there "
                "with `save_pretrained`."
            ) from error


def _causal_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM  # without types of its own


def _find_folder(
    name: str, progress: Callable[[int, int], None] | None, family: Family | None
) -> Path:
    if name in REGISTRY or not Path(name).is_dir():
        folder = model_folder(name)
        if is_on_disk(name):
            return folder
        if name == EMBEDDED:
            raise UserError(f"The model {name!r} is not prepared yet; run `{COMMAND} setup` first.")
        hub_id = REGISTRY[name].hub_id if name in REGISTRY else name
        accept = partial(check_config, family=family)
        hub.download_model(hub_id, folder, progress=progress, accept=accept)
        return folder
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(
            f"The folder {name!r} holds an adapter; merge it into its model (`merge_and_unload`) "
            "and save that whole."
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"The folder {name!r} holds no config.json; "
            f"give a model's folder, a hub id or one of {', '.join(REGISTRY)}."
        )
    return folder


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
