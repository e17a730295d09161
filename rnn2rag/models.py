"""Pretrained models by name: `load("smollm2")` gives a model and its tokenizer, offline, from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnn2rag import catalog, machine
from rnn2rag.errors import UserError

if TYPE_CHECKING:
    import gguf
    import numpy
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from rnn2rag.machine import Runtime

# The names that llama.cpp's file gives to a Llama's tensors, and transformers' names for them.
_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


def load(
    name: str, runtime: Runtime | None = None, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a pretrained model, ready to evaluate, and its tokenizer.

    name: "smollm2", a causal language model, or "minilm", a sentence encoder (its last hidden states; the pooler, which
    was not trained for sentences, is left out). runtime: where and how, as `rnn2rag.runtime()` returns it; without one
    on the CPU in float32, at the scale of `rnn2rag.machine.scale()`. dtype: another precision than the runtime's.

    The embedded scale reads the cache: SmolLM2's 4-bit file is converted there once, then it loads in about a second.
    The full scale loads the same model from the hub.

    Raises UserError for an unknown name, for files that are not in the cache, and when the hub does not answer.
    """
    import torch

    found = catalog.entry(name, kind="model")
    dtype = dtype or (runtime.dtype if runtime else torch.float32)
    scale = runtime.scale if runtime else machine.scale()
    if scale == "full":
        try:
            model, tokenizer = _read(name, found.hub, dtype)
        except OSError as error:
            raise UserError(
                f"the hub did not give {found.hub}: check the network, "
                "or use the embedded scale (RNN2RAG_SCALE=embedded)"
            ) from error
    else:
        with _no_progress_bar():
            model, tokenizer = _read(name, _converted(found) if name == "smollm2" else catalog.folder(name), dtype)
    if runtime:
        model.to(runtime.device)
    return model.eval(), tokenizer


def prepare() -> None:
    """Convert what has to be converted before it loads fast: SmolLM2, once its files are in the cache."""
    _converted(catalog.entry("smollm2"))


def _read(name: str, source: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer with transformers from a folder, or from the hub by its name there."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    if name == "minilm":
        # Read with its pooler and then without: reading without it reports the pooler's weights as unexpected.
        model = AutoModel.from_pretrained(source, dtype=dtype)
        model.pooler = None
    else:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return model, AutoTokenizer.from_pretrained(source)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for what takes a second; afterwards its setting is as before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _converted(found: catalog.Entry) -> Path:
    """Return the folder with an entry's GGUF file in transformers' own format; make it when it is not there yet."""
    import time

    place = catalog.cache_dir() / f"{found.name}-bf16"
    if place.exists():
        return place
    source = catalog.folder(found.name) / found.files[0].name
    with catalog.workspace() as work:
        if not place.exists():  # another process may have made it while this one waited
            print(f"{found.name}: converting its 4-bit weights to bfloat16, once", end=" ... ", flush=True)
            start = time.perf_counter()
            _convert(source, work / place.name)
            catalog.publish(work / place.name, place)
            print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return place


def _convert(source: Path, target: Path) -> None:
    """Write the Llama in a GGUF file (weights, configuration, tokenizer) as a folder that `from_pretrained` reads.

    The weights come in blocks of 32 with their own scale and offset (4 bits each; the embeddings in 8) and are stored
    in bfloat16. Source: llama.cpp's conversion script, which this undoes, and the GGUF specification.
    """
    import gguf
    from safetensors.torch import save_file
    from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

    reader = gguf.GGUFReader(source)

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    special = {kind: value(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos", "padding", "unknown")}
    ids = {"bos_token_id": special["bos"], "eos_token_id": special["eos"], "pad_token_id": special["padding"]}
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=value("llama.vocab_size"),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
        tie_word_embeddings=True,
        dtype="bfloat16",
        **ids,
    )
    words = value("tokenizer.ggml.tokens")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(words, value("tokenizer.ggml.merges"), value("tokenizer.ggml.token_type")),
        bos_token=words[special["bos"]],
        eos_token=words[special["eos"]],
        pad_token=words[special["padding"]],
        unk_token=words[special["unknown"]],
        chat_template=value("tokenizer.chat_template"),
        model_max_length=config.max_position_embeddings,
    )
    target.mkdir()
    save_file(_weights(reader, config), target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    GenerationConfig(**ids).save_pretrained(target)
    tokenizer.save_pretrained(target)
    # save_file lets only the owner read; a cache may be shared.
    (target / "model.safetensors").chmod((target / "config.json").stat().st_mode)


def _weights(reader: gguf.GGUFReader, config: Any) -> dict[str, torch.Tensor]:
    """Return a GGUF file's tensors in bfloat16 under the names that transformers gives them."""
    import gguf
    import torch

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        *layer, part, _ = tensor.name.split(".")  # "blk.3.attn_q.weight", "output_norm.weight"
        if part in heads:
            array = _halves(array, heads[part])
        name = f"layers.{layer[1]}.{_INNER[part]}" if layer else _OUTER[part]
        weights[f"model.{name}.weight"] = torch.tensor(array, dtype=torch.bfloat16)
    return weights


def _halves(array: numpy.ndarray, heads: int) -> numpy.ndarray:
    """Reorder the rows of a query or key projection (heads * d_head, d_model) for rotary embeddings in halves.

    llama.cpp rotates dimensions 2i and 2i + 1 together, transformers i and i + d_head / 2.
    """
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(words: list[str], merges: list[str], kinds: list[int]) -> Tokenizer:
    """Return SmolLM2's byte-level BPE: each digit is a piece of its own, then GPT-2's pattern cuts the rest.

    words: the vocabulary in the order of its ids; merges: "left right", best first; kinds: 3 for a control token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return tokenizer
