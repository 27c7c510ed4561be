"""A tiny model that reads single bytes."""

from tiny_models import make_network
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from core.models.model import Model


def byte_model(*, layers: int = 2, words: tuple[str, ...] = (" good", " bad")) -> Model:
    """A model whose tokens are single bytes, but for the words that are read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(list(words))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    network = make_network("llama", layers=layers)
    network.config.max_position_embeddings = 1024  # a tweet has many bytes
    return Model(network, fast, name="bytes", identity="bytes")
