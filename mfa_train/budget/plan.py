"""Parameters, KV bytes and FLOPs of a config, read off the model built on torch's meta device.

FLOPs count matrix products and attention exactly, two per multiply-add, over the causal half of the scores; the
backward pass counts twice the forward one, recomputation nothing. Elementwise work, norms and the softmax count zero.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mfa_train.attention import Attention, attention_config
from mfa_train.config import Config
from mfa_train.model.decoder import DecoderLayer, LanguageModel

CACHE_BYTES_PER_VALUE = 2
"""16-bit caches."""


def make_plan(config: Config) -> dict:
    """One JSON object: attention, params, kv_cache, flops, model. Raises ConfigError where the model can't be."""
    with torch.device("meta"):
        model = LanguageModel(config.model, attention_config(config.attention))
        layer = model.model.layers[0]
        rope = model.model.rope
        positions = rope(torch.zeros(1, dtype=torch.long))
        x = torch.empty(1, 1, config.model.hidden_size)
        with torch.no_grad():
            values = sum(part[0, 0].numel() for part in layer.self_attn.cache_entry(x, positions))
            linear_flops = _linear_flops(layer, x, positions)
    layers, sequence = config.model.num_hidden_layers, config.training.sequence_length
    head_flops = 2 * config.model.hidden_size * config.model.vocab_size
    forward = layers * (linear_flops + attention_flops(layer.self_attn, sequence) // 2) + head_flops
    embeddings = {id(weight): weight.numel() for weight in (model.model.embed_tokens.weight, model.lm_head.weight)}
    total = sum(parameter.numel() for parameter in model.parameters())
    steps = config.training.total_steps
    return {
        "attention": config.attention["name"],
        "params": {
            "total": total,
            "non_embedding": total - sum(embeddings.values()),
            "attention_per_layer": sum(parameter.numel() for parameter in layer.self_attn.parameters()),
            "ffn_per_layer": sum(parameter.numel() for parameter in layer.mlp.parameters()),
        },
        "kv_cache": {
            "values_per_token_per_layer": values,
            "bytes_per_token": layers * values * CACHE_BYTES_PER_VALUE,
        },
        "flops": {
            "train_per_token": 3 * forward,
            "train_total": 3 * forward * steps * config.training.batch_size * sequence,
        },
        "model": {key: getattr(config.model, key)
                  for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")},
    }


def attention_flops(attention: Attention, keys: int) -> int:
    """Forward FLOPs of one query token's scores and values over `keys` tokens, all heads of one layer."""
    return 2 * attention.num_attention_heads * (attention.qk_head_dim + attention.v_head_dim) * keys


def _linear_flops(layer: DecoderLayer, x: torch.Tensor, positions) -> int:
    """Forward FLOPs of one token in one layer, scores and values left out. x (1, 1, hidden_size)."""
    attention = layer.self_attn
    with FlopCounterMode(display=False) as counter:
        q = attention.query(x, positions)
        attention.keys_values(*attention.cache_entry(x, positions), positions=positions)
        attention.o_proj(q.new_empty(1, 1, attention.o_proj.in_features))
        layer.mlp(x)
    return counter.get_total_flops()
