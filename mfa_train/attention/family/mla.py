"""Multi-head latent attention (MLA, DeepSeek-V2, arXiv 2405.04434, equations 37-47).

Keys and values are up-projected from one normed latent; position travels in a rotated key of its own, shared by all
heads. Cache: the latent after its norm and the rotated key, kv_lora_rank + qk_rope_head_dim. Weights are named and laid
out as in Hugging Face's DeepSeek-V3. Decoding attends over the latents themselves (section 2.1.2).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mfa_train.attention.base import Attention, Capacity, heads, multiples
from mfa_train.attention.kernels.decoding import decoding_attention
from mfa_train.attention.latent import LatentConfig, LatentNorm
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

    def __init__(self, hidden_size: int, config: Config):
        nope, rope, n = config.qk_nope_head_dim, config.qk_rope_head_dim, config.num_attention_heads
        super().__init__(hidden_size, config, qk_head_dim=nope + rope, v_head_dim=config.v_head_dim)
        self.nope_rope = (nope, rope)
        self.latent_rope = (config.kv_lora_rank, rope)
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(hidden_size, n * (nope + rope), bias=False)
        else:
            self.q_a_proj = nn.Linear(hidden_size, config.q_lora_rank, bias=False)
            self.q_a_layernorm = LatentNorm(config.q_lora_rank, hidden_size, config)
            self.q_b_proj = nn.Linear(config.q_lora_rank, n * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden_size, config.kv_lora_rank + rope, bias=False)
        self.kv_a_layernorm = LatentNorm(config.kv_lora_rank, hidden_size, config)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, n * (nope + config.v_head_dim), bias=False)
        # The shared rotated key is normed before it is cached, a head's nope-key after the up-projection.
        self.q_norm = nn.RMSNorm(nope + rope, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(nope, eps=1e-6) if config.qk_norm else nn.Identity()
        self.k_rope_norm = nn.RMSNorm(rope, eps=1e-6) if config.qk_norm else nn.Identity()

    def query(self, x: Tensor, positions: Positions) -> Tensor:
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if hasattr(self, "q_a_proj") else self.q_proj(x)
        nope, rope = self.q_norm(heads(q, self.qk_head_dim)).split(self.nope_rope, dim=-1)
        return torch.cat((nope, rotate(rope, positions)), dim=-1)

    def cache_entry(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        latent, rope = self.kv_a_proj_with_mqa(x).split(self.latent_rope, dim=-1)
        rope = rotate(self.k_rope_norm(rope).unsqueeze(2), positions).squeeze(2)
        return self.kv_a_layernorm(latent), rope

    def keys_values(self, latent: Tensor, rope: Tensor, *, positions: Positions) -> tuple[Tensor, Tensor]:
        nope_dim, _ = self.nope_rope
        nope, v = heads(self.kv_b_proj(latent), nope_dim + self.v_head_dim).split((nope_dim, self.v_head_dim), dim=-1)
        shared = rope.unsqueeze(2).expand(-1, -1, self.num_attention_heads, -1)
        return torch.cat((self.k_norm(nope), shared), dim=-1), v

    def attend(
        self, q: Tensor, latent: Tensor, rope: Tensor, *, positions: Positions, lengths: Tensor | None = None
    ) -> Tensor:
        """The keys' up-projection goes into the query, the values' behind the sum over tokens: no key is made."""
        if not isinstance(self.k_norm, nn.Identity):  # a norm of each head's key needs the key
            return super().attend(q, latent, rope, positions=positions, lengths=lengths)
        up_k, up_v = self.kv_b_proj.weight.view(self.num_attention_heads, -1, self.latent_rope[0]).split(
            (self.nope_rope[0], self.v_head_dim), dim=1
        )
        q_nope, q_rope = q.split(self.nope_rope, dim=-1)
        q_latent = (q_nope.transpose(1, 2) @ up_k).transpose(1, 2)
        latent, rope = latent.unsqueeze(2), rope.unsqueeze(2)
        o = decoding_attention((q_latent, q_rope), (latent, rope), latent, self.scale, lengths=lengths)
        return (o.transpose(1, 2) @ up_v.transpose(1, 2)).transpose(1, 2)

    def capacity(self) -> Capacity:
        rank = min(self.nope_rope[0], self.latent_rope[0])
        return Capacity(self.num_attention_heads * rank, min(self.latent_rope[0], self.kv_a_proj_with_mqa.in_features))
