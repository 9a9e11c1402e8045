"""Parameters, cache entries and FLOPs of a config, read off one layer of its model on torch's meta device.

FLOPs count matrix products and attention exactly, two per multiply-add, over the causal half of the scores; the
backward pass counts twice the forward one, recomputation nothing. Elementwise work, norms and the softmax count zero.
"""

import contextlib
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from mfa_train.attention import Attention, Capacity, attention_class, attention_config
from mfa_train.attention.rope import Rope
from mfa_train.config import ModelConfig
from mfa_train.config.budget_schema import entry_bytes
from mfa_train.errors import ConfigError
from mfa_train.feed_forward import layers_by_kind
from mfa_train.feed_forward.names import STACKED
from mfa_train.model.decoder import DecoderLayer, LanguageModel

Found = TypeVar("Found")


@dataclass(frozen=True)
class Shape:
    """Of the whole model where nothing else is said; FLOPs of one token, forward."""

    params: int
    active_params: int
    """That one token meets: of experts those that it goes to. All of them where there are none."""
    embedding_params: int
    input_embedding_params: int
    """Of a table that is not the head's too."""
    attention_params_per_layer: int
    ffn_params_per_layer: int
    """Of the last layer: of experts, all."""
    cache_values_per_layer: int
    """Values that one token leaves in one layer's cache."""
    cache_tensors_per_layer: int
    """In how many tensors."""
    attention_linear_flops: int
    """Of the projections around attention, all layers."""
    query_flops: int
    """Of them the query's."""
    expansion_flops: int
    """Of them those that make keys and values of the entry."""
    widths: "Widths"
    ffn_flops: int
    head_flops: int
    layers: int
    attention: Attention
    """One layer's, on the meta device."""
    scores_and_values_per_key: int
    """FLOPs of one query over one key, all heads of one layer, in training."""
    rope: Rope
    hidden_size: int
    parameter_sizes: tuple[tuple[int, int], ...]
    """(elements, how many of that size) of every parameter."""
    expert_sizes: tuple[tuple[int, int], ...]
    """Of them those that are a layer's experts, and that ranks may share out."""
    values_to_experts: int
    """That one token sends to experts, and that come back from them, all layers."""

    @functools.cached_property
    def decoding(self) -> "Decoding":
        return _decoding(self.attention, self.rope, self.hidden_size)

    @property
    def capacity(self) -> Capacity | None:
        return self.attention.capacity()

    @property
    def multiplied_params(self) -> int:
        """That one token is multiplied with: `active_params` without an input embedding that is not the head too."""
        return self.active_params - self.input_embedding_params

    def cache_bytes(self, cache_dtype: str) -> int:
        """Of one token in the cache."""
        return self.layers * entry_bytes(self.cache_values_per_layer, self.cache_tensors_per_layer, cache_dtype)

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
        return self.layers * (self.scores_and_values_per_key * sequence_length // 2)

    def decode_attention_flops(self, context: int, counting: str) -> int:
        """Of one decoded token over `context` cached tokens, what grows with them. counting: exact | step3."""
        decoding = self.decoding
        per_token = 2 * decoding.scores_per_token if counting == "step3" else decoding.per_token
        return self.layers * per_token * context

    def decode_linear_flops(self) -> int:
        """Of one decoded token, whatever the context: projections, and what attending over entries adds to them."""
        return self.layers * self.decoding.linear


class Widths(NamedTuple):
    """Of one layer's heads as the kernel gets them in training."""

    heads: int
    kv_heads: int
    qk_head_dim: int
    v_head_dim: int

    @property
    def values_by_heads(self) -> int:
        """Of one token in queries, keys, values and the heads' outputs."""
        return self.heads * (self.qk_head_dim + self.v_head_dim) + self.kv_heads * (self.qk_head_dim + self.v_head_dim)


class Decoding(NamedTuple):
    """FLOPs of one decoded token in one layer's attention, counted on `Attention.attend` itself."""

    linear: int
    """Of projections, whatever the context."""
    per_token: int
    """Over each cached token."""
    scores_per_token: int
    """Of them those of scores: products that do not sum over the cached tokens."""


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


def _remembered(found_by: Callable[[ModelConfig, dict], Found]) -> Callable[[ModelConfig, dict], Found]:
    """Asked once for a model and an attention, in words: matchings and plans of one size ask for the same again and
    again."""
    found: dict[str, Found] = {}

    @functools.wraps(found_by)
    def asked(model: ModelConfig, attention: dict) -> Found:
        if (key := repr((model, attention))) not in found:
            found[key] = found_by(model, attention)
        return found[key]

    return asked


@_remembered
@countable()
def measure(model: ModelConfig, attention: dict) -> Shape:
    """Builds one layer on the meta device. Raises ConfigError where the model can't be."""
    kinds = layers_by_kind(model)
    with torch.device("meta"), torch.no_grad():
        whole = meta_model(model, attention, kinds)
        layers, count = layers_of(whole), model.num_hidden_layers
        positions = whole.model.rope(torch.zeros(1, dtype=torch.long))
        x = torch.empty(1, 1, model.hidden_size)
        attending = layers[0].self_attn
        with FlopCounterMode(display=False) as of_query:
            q = attending.query(x, positions)
        with FlopCounterMode(display=False) as of_entry:
            entry = attending.cache_entry(x, positions)
        with FlopCounterMode(display=False) as of_expansion:
            k, v = attending.keys_values(*entry, positions=positions)
        with FlopCounterMode(display=False) as of_output:
            attending.output(q.new_empty(*q.shape[:3], v.shape[3]), x, positions)
        counters = of_query, of_entry, of_expansion, of_output
        attention_linear = sum(counter.get_total_flops() for counter in counters)
        of_kinds = [_flops(layer.mlp, x) for layer in layers]
        head = _flops(whole.lm_head, x)
    around = _sizes(whole)
    for size in (size for layer in layers for size in _sizes(layer)):
        around.remove(size)
    sizes, expert_sizes = Counter(around), Counter[int]()
    for layer, times in zip(layers, kinds.values()):
        for name, parameter in layer.named_parameters():
            sizes[parameter.numel()] += times
            if STACKED.fullmatch(f"layer.{name}"):
                expert_sizes[parameter.numel()] += times
    params = sum(size * times for size, times in sizes.items())
    ffn = sum(times * flops for times, flops in zip(kinds.values(), of_kinds))
    ffn_params = sum(times * sum(_sizes(layer.mlp)) for times, layer in zip(kinds.values(), layers))
    embeddings = {id(weight): weight.numel() for weight in (whole.model.embed_tokens.weight, whole.lm_head.weight)}
    return Shape(
        params=params,
        active_params=params - ffn_params + ffn // 2,  # a token is multiplied once with each weight that it meets
        embedding_params=sum(embeddings.values()),
        input_embedding_params=whole.model.embed_tokens.weight.numel() if len(embeddings) > 1 else 0,
        attention_params_per_layer=sum(_sizes(layers[0].self_attn)),
        ffn_params_per_layer=sum(_sizes(layers[-1].mlp)),
        cache_values_per_layer=sum(part[0, 0].numel() for part in entry),
        cache_tensors_per_layer=len(entry),
        attention_linear_flops=count * attention_linear,
        query_flops=count * of_query.get_total_flops(),
        expansion_flops=count * of_expansion.get_total_flops(),
        widths=Widths(q.shape[2], k.shape[2], k.shape[3], v.shape[3]),
        ffn_flops=ffn,
        head_flops=head,
        layers=count,
        attention=attending,
        scores_and_values_per_key=2 * q.shape[2] * (k.shape[3] + v.shape[3]),
        rope=whole.model.rope,
        hidden_size=model.hidden_size,
        parameter_sizes=tuple(sizes.items()),
        expert_sizes=tuple(expert_sizes.items()),
        values_to_experts=model.hidden_size
        * sum(times * layer.mlp.per_token for times, layer in zip(kinds.values(), layers)),
    )


@_remembered
@countable()
def cache_values(model: ModelConfig, attention: dict) -> tuple[int, int]:
    """Values that one token leaves in one layer's cache, and in how many tensors."""
    with torch.device("meta"), torch.no_grad():
        typed = attention_config(attention | {"kernel": "sdpa"})
        of_layer = attention_class(typed.name)(model.hidden_size, typed)  # type: ignore[call-arg]  # as in DecoderLayer
        position = of_layer.make_rope(typed)(torch.zeros(1, dtype=torch.long))
        entry = of_layer.cache_entry(torch.empty(1, 1, model.hidden_size), position)
    return sum(part[0, 0].numel() for part in entry), len(entry)


def meta_model(model: ModelConfig, attention: dict, layers: Iterable[int]) -> LanguageModel:
    """The model with these of its layers, by their numbers from 0; call it under `torch.device("meta")`. A plan may be
    for other devices than this machine's: no kernel is refused."""
    return LanguageModel(model, attention_config(attention | {"kernel": "sdpa"}), layers=layers)


def layers_of(model: LanguageModel) -> list[DecoderLayer]:
    return [layer for layer in model.model.layers if isinstance(layer, DecoderLayer)]


def _decoding(attention: Attention, rope: Rope, hidden_size: int) -> Decoding:
    """Runs one token's step over two lengths of cache: what they differ by is the cached tokens'."""
    short, long = 4099, 8209  # primes: no other dimension is taken for them

    def flops(tokens: int) -> tuple[int, int]:
        """Of the step, and of its products that sum over the cached tokens."""
        summed = 0

        def product(a: Sequence[int], b: Sequence[int], *_, out_shape: Sequence[int], **__) -> int:
            """Of a batched product a @ b, by their shapes."""
            nonlocal summed
            counted = 2 * math.prod(a) * b[-1]
            summed += counted if a[-1] == tokens else 0
            return counted

        with torch.device("meta"), torch.no_grad():
            x, here, all_of_them = (
                torch.empty(1, 1, hidden_size),
                rope(torch.zeros(1).long()),
                rope(torch.arange(tokens)),
            )
            cached = attention.cache_entry(torch.empty(1, tokens, hidden_size), all_of_them)
            with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.bmm: product}) as counter:
                q = attention.query(x, here)
                attention.cache_entry(x, here)
                attention.output(attention.attend(q, *cached, positions=all_of_them), x, here)
        return counter.get_total_flops(), summed

    (few, few_summed), (many, many_summed) = flops(short), flops(long)
    per_token = (many - few) // (long - short)
    return Decoding(
        linear=few - per_token * short,
        per_token=per_token,
        scores_per_token=per_token - (many_summed - few_summed) // (long - short),
    )


def _flops(module: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops()


def _sizes(module: torch.nn.Module) -> list[int]:
    return [parameter.numel() for parameter in module.parameters()]
