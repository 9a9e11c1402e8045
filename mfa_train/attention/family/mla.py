"""Multi-head latent attention (MLA, DeepSeek-V2, arXiv 2405.04434, equations 37-47).

Keys and values are up-projected from one normed latent; position travels in a rotated key of its own, shared by all
heads. Cache: the latent after its norm and the rotated key, kv_lora_rank + qk_rope_head_dim. Weights are named and laid
out as in Hugging Face's DeepSeek-V3. Decoding attends over the latents themselves (section 2.1.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mfa_train.attention.base import Attention, Capacity, heads, multiples
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.latent import BlockLinear, LatentConfig, LatentNorm, block_linear
from mfa_train.attention.rope import Positions, rotate


class MultiHeadLatentAttention(Attention):
    @dataclass(kw_only=True)
    class Config(LatentConfig):
        q_lora_rank: int | None
        """null: the query is of full rank, as in DeepSeek-V2-Lite."""
        kv_lora_rank: int
        qk_nope_head_dim: int
        qk_rope_head_dim: int
        v_head_dim: int

        rope_key: ClassVar[str] = "qk_rope_head_dim"

        def cache_choices(self) -> Iterator[dict[str, int]]:
            return ({"kv_lora_rank": rank} for rank in multiples())

    kv_b_proj: Any
    """A `block_linear`; in MLRA a parameter."""

    def __init__(self, hidden_size: int, config: Config, *, blocks: int = 1, branches: int = 1):
        """`blocks` of the latent, each for so many of the `branches` · num_attention_heads key heads: see gla.py and
        mlra.py."""
        nope, rope, n = config.qk_nope_head_dim, config.qk_rope_head_dim, config.num_attention_heads
        super().__init__(hidden_size, config, qk_head_dim=nope + rope, v_head_dim=config.v_head_dim)
        self.nope_rope, self.nope_value = (nope, rope), (nope, config.v_head_dim)
        self.latent_rope = (config.kv_lora_rank, rope)
        self.blocks, self.key_heads = blocks, branches * n
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden_size, n * (nope + rope), bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden_size, config.q_lora_rank, bias=False)
            self.q_a_layernorm = LatentNorm(config.q_lora_rank, hidden_size, config)
            self.q_b_proj = nn.Linear(config.q_lora_rank, n * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden_size, config.kv_lora_rank + rope, bias=False)
        self.make_latent(hidden_size, config)
        # The shared rotated key is normed before it is cached, a head's nope-key after the up-projection.
        self.q_norm = nn.RMSNorm(nope + rope, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(nope, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_rope_norm = nn.RMSNorm(rope, eps=1e-6) if config.qk_norm else nn.Identity()

    def make_latent(self, hidden_size: int, config: Config) -> None:
        """The latent's norm and its up-projection, of which the three methods below are made."""
        self.kv_a_layernorm = LatentNorm(config.kv_lora_rank, hidden_size, config, self.blocks)
        self.kv_b_proj = block_linear(config.kv_lora_rank, self.key_heads * sum(self.nope_value), self.blocks)

    def normed(self, latent: Tensor) -> Tensor:
        """The latent as it is cached; of several blocks each like a head: (batch, tokens, blocks, a block's rank)."""
        return self.kv_a_layernorm(latent)

    def expanded(self, latent: Tensor) -> Tensor:
        """Keys and values (batch, tokens, key_heads·(nope + v)) of a normed latent."""
        return self.kv_b_proj(latent)

    def up_projection(self) -> Tensor | None:
        """The weights of `expanded`: (blocks, a block's key heads, nope + v, a block's rank). None where they are not
        to be had: ZeRO 3 makes a sharded module's whole in its own forward alone, and an adapter in the module's place
        is more than its weights."""
        if type(self.kv_b_proj) not in (nn.Linear, BlockLinear) or not self.kv_b_proj.weight.numel():
            return None
        weight = self.kv_b_proj.weight
        return weight.view(self.blocks, -1, sum(self.nope_value), weight.shape[1])

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if hasattr(self, "q_a_proj") else self.q_proj(x)
        nope, rope = self.q_norm(heads(q, self.qk_head_dim)).split(self.nope_rope, dim=-1)
        return torch.cat((nope, rotate(rope, positions)), dim=-1)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        latent, rope = self.kv_a_proj_with_mqa(x).split(self.latent_rope, dim=-1)
        rope = rotate(self.k_rope_norm(rope).unsqueeze(2), positions).squeeze(2)
        return self.normed(latent), rope

    def keys_values(self, latent: Tensor, rope: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        nope, v = heads(self.expanded(latent), sum(self.nope_value)).split(self.nope_value, dim=-1)
        shared = rope.unsqueeze(2).expand(-1, -1, self.key_heads, -1)
        return torch.cat((self.k_norm(nope), shared), dim=-1), v

    def attend(
        self, q: Tensor, latent: Tensor, rope: Tensor, *, positions: Positions, lengths: Tensor | None = None
    ) -> Tensor:
        """The keys' up-projection goes into the query, the values' behind the sum over tokens: no key is made."""
        up = self.up_projection() if isinstance(self.k_norm, nn.Identity) else None  # a norm of keys needs the keys
        if up is None:
            return super().attend(q, latent, rope, positions=positions, lengths=lengths)
        up_k, up_v = up.split(self.nope_value, dim=2)
        q_nope, q_rope = q.split(self.nope_rope, dim=-1)
        latent, rope = latent.view(*rope.shape[:2], self.blocks, -1), rope.unsqueeze(2)
        o = decoding_attention((_by_head(q_nope, up_k), q_rope), (latent, rope), latent, self.scale, lengths=lengths)
        return _by_head(o, up_v.transpose(2, 3))

    def capacity(self) -> Capacity:
        rank, hidden_size = self.latent_rope[0], self.kv_a_proj_with_mqa.in_features
        return Capacity(self.key_heads * min(self.nope_rope[0], rank // self.blocks), min(rank, hidden_size))


def _by_head(x: Tensor, weights: Tensor) -> Tensor:
    """x (batch, queries, heads, width) times its head's of the weights (blocks, a block's heads, width, …)."""
    rows = x.permute(2, 0, 1, 3).flatten(1, 2)  # one product a head: the weights are read once, whatever the batch
    parts = [block @ weight for block, weight in zip(rows.chunk(len(weights)), weights)]
    return torch.cat(parts).unflatten(1, x.shape[:2]).permute(1, 2, 0, 3)
