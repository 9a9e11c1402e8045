"""Parameters, cache entries and FLOPs of a config, read off one layer of its model on torch's meta device.

FLOPs count matrix products and attention exactly, two per multiply-add, over the causal half of the scores; the
backward pass counts twice the forward one, recomputation nothing. Elementwise work, norms and the softmax count zero.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from mfa_train.attention import Attention, Capacity, attention_config
from mfa_train.config import ModelConfig
from mfa_train.errors import ConfigError
from mfa_train.model.decoder import DecoderLayer, LanguageModel


@dataclass(frozen=True)
class Shape:
    """Of the whole model where nothing else is said; FLOPs of one token, forward."""

    params: int
    embedding_params: int
    attention_params_per_layer: int
    ffn_params_per_layer: int
    cache_values_per_layer: int
    """Values that one token leaves in one layer's cache."""
    attention_linear_flops: int
    """Of the projections around attention, all layers."""
    ffn_flops: int
    head_flops: int
    layers: int
    attention: Attention
    """One layer's, on the meta device."""
    parameter_sizes: tuple[tuple[int, int], ...]
    """(elements, how many of that size) of every parameter."""

    @property
    def capacity(self) -> Capacity | None:
        return self.attention.capacity()

    def train_flops_per_token(self, sequence_length: int) -> int:
        """Forward and twice that backward."""
        return 3 * (
            self.attention_linear_flops
            + self.ffn_flops
            + self.head_flops
            + self.scores_and_values_flops(sequence_length)
        )

    def scores_and_values_flops(self, sequence_length: int) -> int:
        """Forward, a token of a sequence seeing half of it on average."""
        return self.layers * (attention_flops(self.attention, sequence_length) // 2)

    def decode_attention_flops(self, context: int, counting: str) -> int:
        """Of one decoded token's scores and values over `context` cached tokens. counting: exact | step3."""
        score, value = self.attention.decode_widths()
        widths = 2 * score if counting == "step3" else score + value
        return 2 * self.layers * self.attention.num_attention_heads * widths * context

    def decode_linear_flops(self) -> int:
        """Of the projections around attention for one decoded token."""
        return self.attention_linear_flops + self.layers * self.attention.decode_extra_flops()


@contextlib.contextmanager
def countable() -> Iterator[None]:
    """Raises ConfigError where a tensor of the model, or of a step, is larger than torch can count."""
    try:
        yield
    except (RuntimeError, OverflowError, TypeError) as error:
        if not re.search("overflow|too large to convert|too big|must be tuple of ints", str(error), re.IGNORECASE):
            raise
        raise ConfigError(
            "model, training.batch_size or training.sequence_length: a tensor of this size cannot even be "
            f"counted ({str(error).splitlines()[0]}); type smaller ones, or training.micro_batch_size=1"
        ) from None


@countable()
def measure(model: ModelConfig, attention: dict) -> Shape:
    """Builds one layer on the meta device. Raises ConfigError where the model can't be."""
    with torch.device("meta"), torch.no_grad():
        whole = meta_model(model, attention, layers=1)
        (layer,), layers = layers_of(whole), model.num_hidden_layers
        positions = whole.model.rope(torch.zeros(1, dtype=torch.long))
        x = torch.empty(1, 1, model.hidden_size)
        with FlopCounterMode(display=False) as counter:
            q = layer.self_attn.query(x, positions)
            entry = layer.self_attn.cache_entry(x, positions)
            layer.self_attn.keys_values(*entry, positions=positions)
            layer.self_attn.o_proj(q.new_empty(1, 1, layer.self_attn.o_proj.in_features))
            attention_linear = counter.get_total_flops()
            layer.mlp(x)
            ffn = counter.get_total_flops() - attention_linear
            whole.lm_head(x)
            head = counter.get_total_flops() - attention_linear - ffn
    in_layer = _sizes(layer)
    around = _sizes(whole)
    for size in in_layer:
        around.remove(size)
    embeddings = {id(weight): weight.numel() for weight in (whole.model.embed_tokens.weight, whole.lm_head.weight)}
    return Shape(
        params=sum(around) + layers * sum(in_layer),
        embedding_params=sum(embeddings.values()),
        attention_params_per_layer=sum(_sizes(layer.self_attn)),
        ffn_params_per_layer=sum(_sizes(layer.mlp)),
        cache_values_per_layer=sum(part[0, 0].numel() for part in entry),
        attention_linear_flops=layers * attention_linear,
        ffn_flops=layers * ffn,
        head_flops=head,
        layers=layers,
        attention=layer.self_attn,
        parameter_sizes=(*((size, 1) for size in around), *((size, layers) for size in in_layer)),
    )


@countable()
def cache_values(model: ModelConfig, attention: dict) -> int:
    """Values that one token leaves in one layer's cache."""
    with torch.device("meta"), torch.no_grad():
        typed = attention_config(attention | {"kernel": "sdpa"})
        attention_of_layer = DecoderLayer(model, typed).self_attn
        position = attention_of_layer.make_rope(typed)(torch.zeros(1, dtype=torch.long))
        entry = attention_of_layer.cache_entry(torch.empty(1, 1, model.hidden_size), position)
    return sum(part[0, 0].numel() for part in entry)


def meta_model(model: ModelConfig, attention: dict, layers: int) -> LanguageModel:
    """The model with so many layers; call it under `torch.device("meta")`. A plan may be for other devices than this
    machine's: no kernel is refused."""
    return LanguageModel(replace(model, num_hidden_layers=layers), attention_config(attention | {"kernel": "sdpa"}))


def layers_of(model: LanguageModel) -> list[DecoderLayer]:
    return [layer for layer in model.model.layers if isinstance(layer, DecoderLayer)]


def attention_flops(attention: Attention, keys: int) -> int:
    """Forward FLOPs of one query token's scores and values over `keys` tokens, all heads of one layer."""
    return 2 * attention.num_attention_heads * (attention.qk_head_dim + attention.v_head_dim) * keys


def _sizes(module: torch.nn.Module) -> list[int]:
    return [parameter.numel() for parameter in module.parameters()]
