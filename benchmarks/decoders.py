"""Who decodes in benchmarks/decoding.py: ours, Hugging Face's Llama over the same weights and cache, and vLLM."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mfa_train.attention import Attention, attention_config
from mfa_train.attention.cache import DecodeCache
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.budget.shape import layers_of
from mfa_train.config import Config
from mfa_train.errors import ConfigError
from mfa_train.export.formats import NATIVE
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.initialization import initialize
from mfa_train.model.rows import few_rows

HERE = Path(__file__).resolve().parent
SERVE = HERE.parent / ".venv-serve" / "bin" / "python"
VLLM_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths that its attention on CPUs takes; of mla, 512 + 64 alone (vLLM 0.32)."""
FILLED_AT_ONCE = 512
"""Tokens."""


class Ours:
    """A variant's model with a cache of `context` tokens a row, in so many layers."""

    def __init__(self, config: Config, dtype: torch.dtype):
        self.model = LanguageModel(config.model, attention_config(config.attention))
        initialize(self.model, config.model.initialization, config.seed, config.model.num_hidden_layers)
        self.model.to(dtype).eval()
        self.few_rows = few_rows(self.model)  # as while a text is decoded
        self.few_rows.__enter__()
        self.attentions: list[Attention] = [layer.self_attn for layer in layers_of(self.model)]
        self.hidden_size, self.dtype = config.model.hidden_size, dtype
        self.vocab_size = config.model.vocab_size

    def fill(self, batch: int, context: int, layers: int) -> None:
        self.batch, self.context, self.layers = batch, context, layers
        self.cache = DecodeCache(layers, context + 1)
        for start in range(0, context, FILLED_AT_ONCE):
            tokens = min(FILLED_AT_ONCE, context - start)
            positions = self.cache.begin(self.model.model.rope, tokens, torch.device("cpu"))
            for attention, layer in zip(self.attentions, self.cache.layers):
                x = torch.randn(1, tokens, self.hidden_size, dtype=self.dtype)
                layer.extend(tuple(part.expand(batch, *part.shape[1:]) for part in attention.cache_entry(x, positions)))
            self.cache.advance(tokens)
        self.x = torch.randn(batch, 1, self.hidden_size, dtype=self.dtype)
        self.tokens = torch.randint(self.vocab_size, (batch, 1))
        here = self._positions()
        self.queries = [attention.query(self.x, here) for attention in self.attentions[:layers]]

    def attend(self) -> None:
        """In every layer, over the context and the token behind it."""
        everywhere = self.cache.rotations.between(0, self.context + 1)
        for attention, q, layer in zip(self.attentions, self.queries, self.cache.layers):
            attention.attend(q, *layer.buffers or (), positions=everywhere)

    def attend_unrotated(self) -> None:
        """The same without what turns entries as they are read."""
        with self._attending_by(lambda *parts, turned=None, **how: decoding_attention(*parts, **how)):
            self.attend()

    def rotates_on_read(self) -> bool:
        seen = []

        def watched(*parts: Any, turned: Any = None, **how: Any) -> torch.Tensor:
            seen.append(turned)
            return decoding_attention(*parts, turned=turned, **how)

        with self._attending_by(watched):
            self.attend()
        return any(turned is not None for turned in seen)

    def layer(self) -> None:
        here = self._positions()
        for attention, layer in zip(self.attentions, self.cache.layers):
            attention(self.x, here, layer)

    def whole(self) -> torch.Tensor:
        """The next token's logits."""
        self.cache.length = self.context
        return self.model(self.tokens, cache=self.cache)

    def first(self, tokens: int) -> None:
        prompt = torch.randint(self.vocab_size, (1, tokens))
        hidden, _ = self.model.model(prompt, cache=DecodeCache(len(self.attentions), tokens))
        self.model.lm_head(hidden[:, -1:])

    def _positions(self) -> Any:
        self.cache.length = self.context
        return self.cache.begin(self.model.model.rope, 1, torch.device("cpu"))

    @contextlib.contextmanager
    def _attending_by(self, instead: Callable[..., torch.Tensor]) -> Iterator[None]:
        """In the module whose `attend` this is."""
        module = sys.modules[type(self.attentions[0]).attend.__module__]
        try:
            module.decoding_attention = instead  # type: ignore[attr-defined]  # of any variant's
            yield
        finally:
            module.decoding_attention = decoding_attention  # type: ignore[attr-defined]


class HuggingFace:
    """transformers' Llama with our weights and, in its static cache, our cache's memory."""

    cache: Any

    def __init__(self, config: Config, ours: Ours):
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        attention = attention_config(config.attention)
        self.ours, self.config = (
            ours,
            LlamaConfig(
                hidden_size=config.model.hidden_size,
                num_hidden_layers=config.model.num_hidden_layers,
                num_attention_heads=attention.num_attention_heads,
                num_key_value_heads=attention.num_key_value_heads,  # type: ignore[attr-defined]  # all three have it
                head_dim=ours.attentions[0].qk_head_dim,
                intermediate_size=config.model.intermediate_size,
                vocab_size=config.model.vocab_size,
                max_position_embeddings=2**20,
                rms_norm_eps=config.model.rms_norm_eps,
                tie_word_embeddings=False,
            ),
        )
        with torch.device("meta"):
            self.model = LlamaForCausalLM(self.config).eval()
        self.model.load_state_dict(ours.model.state_dict(), assign=True)
        self.model.model.rotary_emb = LlamaRotaryEmbedding(self.config)

    def share(self) -> None:
        """Our cache, as it is now."""
        from transformers import StaticCache

        self.cache = StaticCache(config=self.config, max_cache_len=self.ours.context + 1)
        for theirs, layer in zip(self.cache.layers, self.ours.cache.layers):
            keys, values = (buffer.transpose(1, 2) for buffer in layer.buffers or ())
            theirs.lazy_initialization(keys[:, :, :0], values[:, :, :0])
            theirs.keys, theirs.values = keys, values
        self.mask = torch.ones(1, 1, 1, self.ours.context + 1, dtype=torch.bool)
        self.position = torch.full((1, 1), self.ours.context)

    def layer(self) -> None:
        self._begin()
        x = self.ours.x
        rotations = self.model.model.rotary_emb(x, self.position)
        for layer, _ in zip(self.model.model.layers, self.ours.cache.layers):
            layer.self_attn(x, position_embeddings=rotations, attention_mask=self.mask, cache=self.cache)

    def whole(self) -> torch.Tensor:
        """The next token's logits."""
        self._begin()
        return self.model(self.ours.tokens, cache=self.cache).logits

    def first(self, tokens: int) -> None:
        from transformers import StaticCache

        prompt = torch.randint(self.ours.vocab_size, (1, tokens))
        cache = StaticCache(config=self.config, max_cache_len=tokens)
        self.model(prompt, cache=cache, logits_to_keep=1)

    def _begin(self) -> None:
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.ours.context)


class VLLMMissing(RuntimeError):
    """vLLM has no steps of this model; says why."""


def vllm_steps(
    config: Config, cells: list[tuple[int, int]], arguments: argparse.Namespace, cache_bytes: int
) -> dict[tuple[int, int], dict[str, Any]]:
    """By batch and context what vllm_steps.py measured. `cache_bytes`: of a token. Raises VLLMMissing."""
    settings = vllm_settings(config, max((context for _, context in cells), default=0) + arguments.steps + 2)
    if not SERVE.exists():
        raise VLLMMissing("not installed: make .venv/.serve")
    if not cells:
        return {}
    asked = {
        "config": settings,
        "cells": cells,
        "dtype": {"fp32": "float32", "bf16": "bfloat16"}[arguments.dtype],
        "steps": arguments.steps,
        "patience": arguments.patience,
    }
    room = max(batch * (context + arguments.steps + 64) for batch, context in cells) * cache_bytes
    environment = os.environ | {
        "OMP_NUM_THREADS": str(arguments.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as ours
        "VLLM_CPU_KVCACHE_SPACE": str(room // 2**30 + 1),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(SERVE), str(HERE / "vllm_steps.py")]
    done = subprocess.run(command, input=json.dumps(asked), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise VLLMMissing(f"it failed: {done.stderr.strip().splitlines()[-1]}")
    return dict(zip(cells, json.loads(done.stdout.splitlines()[-1]), strict=True))


def vllm_settings(config: Config, context: int) -> dict[str, Any]:
    """config.json of the config's model with room for so many tokens. Raises VLLMMissing."""
    attention: Any = attention_config(config.attention)
    form = next((form for form in NATIVE if form.has(config)), None)
    if form is None:
        raise VLLMMissing(f"it has no attention={attention.name}")
    if attention.name == "mla":
        if (found := (attention.kv_lora_rank, attention.qk_rope_head_dim)) != (512, 64):
            raise VLLMMissing(f"on CPUs it has mla of kv_lora_rank 512 + 64 alone, not {found[0]} + {found[1]}")
    elif attention.head_dim not in VLLM_HEADS:
        raise VLLMMissing(f"on CPUs it has no heads of {attention.head_dim}")
    try:
        return form(replace(config, model=replace(config.model, max_position_embeddings=context))).settings()
    except ConfigError as reason:
        raise VLLMMissing(str(reason)) from reason
