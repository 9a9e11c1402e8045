"""mfa as Step-3's text model with dense layers alone, which vLLM serves.

What its class lacks is made good in the query's latent q, which it norms as

    q / sqrt(mean(q²) + model.rms_norm_eps) · weight

while ours has an eps of its own, and a rank r that its loader may cut wrongly. It gets rank R >= r with zeros behind
ours, q times sqrt(rms_norm_eps / latent_norm_eps · R / r), and the norm's weight times sqrt(r / R): the same query.
"""

import copy
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mfa_train.export.formats.base import VLLM_HEAD_DIMS, Format, FormatCannotSay, WithLatents
from mfa_train.export.formats.config_json import ConfigJson
from mfa_train.export.formats.remote import Remote

CLASS = "Step3TextForCausalLM"
LATENT, NORM, HEADS = "q_proj.weight", "inter_norm.weight", "wq.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Step3(WithLatents):
    attentions = ("mfa",)
    model_types = ("step3_text",)
    remote_code = True

    @functools.cached_property
    def ours(self) -> Format:
        """The model that these weights make, under our own names and keys: what transformers reads of the folder."""
        attention = self.config.attention | {
            "q_lora_rank": self.rank,
            "latent_scale": False,
            "latent_norm_eps": self.model.rms_norm_eps,
            "rope_interleave": False,
        }
        config = copy.copy(self.config)  # not `replace`: an old run's other keys may be such as no start takes any more
        config.model = dataclasses.replace(self.model, tie_word_embeddings=False)
        config.attention = attention
        return Remote(config)

    @property
    def loads(self) -> str:
        return self.ours.loads

    @property
    def served_by_vllm(self) -> bool:
        return self.attention.head_dim in VLLM_HEAD_DIMS

    def files(self) -> dict[str, bytes]:
        return self.ours.files()

    @functools.cached_property
    def rank(self) -> int:
        """Of the query there."""
        return rank_that_loads(self.attention.q_lora_rank, self.attention.head_dim)

    @functools.cached_property
    def factors(self) -> dict[str, float]:
        """Of the latent's projection and of its norm's weight."""
        wider = self.rank / self.attention.q_lora_rank
        eps = self.model.rms_norm_eps / self.attention.latent_norm_eps
        return {LATENT: math.sqrt(eps * wider), NORM: math.sqrt(1 / wider)}

    def settings(self) -> dict[str, Any]:
        attention, context = self.attention, self.model.max_position_embeddings
        if attention.output_gate != "none":
            raise FormatCannotSay(
                f"attention.output_gate={attention.output_gate}: {CLASS} has no gate behind its heads"
            )
        if attention.q_lora_rank is None:
            raise FormatCannotSay(
                f"attention.q_lora_rank=null with attention=mfa: {CLASS} makes queries of a normed latent alone"
            )
        if not attention.inter_norm:
            raise FormatCannotSay(f"attention.inter_norm=false: {CLASS} always norms the query's latent")
        if attention.qk_norm:
            raise FormatCannotSay(f"attention.qk_norm=true with attention=mfa: {CLASS} has no such norms")
        if (scaling := attention.rope_scaling) and scaling.rope_type != "linear":
            raise FormatCannotSay(
                f"attention.rope_scaling.rope_type={scaling.rope_type} with attention=mfa: vLLM 0.32 cannot read the "
                f"config.json of a {CLASS} with it, only linear"
            )
        return self.ours.settings() | {
            "model_type": "step3_text",
            "architectures": [CLASS],
            "head_dim": attention.head_dim,
            "share_q_dim": self.rank,
            "num_attention_groups": 1,
            "num_key_value_heads": 1,
            "max_position_embedding": context,
            "max_seq_len": context,
            "moe_layers_enum": "-1",  # no layer is a mixture of experts
            "moe_num_experts": 0,
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        keys = settings.model()
        layers = keys["model.num_hidden_layers"]
        experts = settings.content.get("moe_layers_enum")  # null: in all layers but the first
        if (
            not isinstance(experts, str)
            or not re.fullmatch(r"-1|\d+(,\d+)*", experts)
            or any(-1 < int(layer) < layers for layer in experts.split(","))
        ):
            raise settings.refused("moe_layers_enum", "-1: dense layers alone, no experts")
        head_dim = settings.count("head_dim", 256)
        return {
            "attention": "mfa",
            **keys,
            "model.tie_word_embeddings": False,
            "attention.num_attention_heads": settings.count("num_attention_heads"),
            "attention.head_dim": head_dim,
            "attention.q_lora_rank": settings.count("share_q_dim", head_dim),
            "attention.inter_norm": True,
            "attention.qk_norm": False,
            "attention.output_gate": "none",
            **settings.rope(),
        }

    def rows_together(self, name: str) -> int | None:
        if self.rank != self.attention.q_lora_rank and name.endswith((LATENT, NORM)):
            return None
        return self.attention.head_dim if name.endswith((HEADS, "k_proj.weight")) else 1

    def sources(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        tied = {HEAD: EMBEDDING} if self.model.tie_word_embeddings else {}  # there the head never is: it gets a copy
        return super().sources(shapes) | tied

    def there(self, name: str, weight: Tensor) -> Tensor:
        weight = self._scaled(name, weight, 1)
        more = self.rank - self.attention.q_lora_rank
        if self.attention.rope_interleave and name.endswith((HEADS, "k_proj.weight")):
            weight = weight.unflatten(0, (-1, self.attention.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
        if more and name.endswith((NORM, HEADS)):
            weight = F.pad(weight, (0, more))
        elif more and name.endswith(LATENT):
            weight = F.pad(weight, (0, 0, 0, more))
        return weight.contiguous()

    def here(self, name: str, weight: Tensor) -> Tensor:
        rank = self.attention.q_lora_rank
        if name.endswith((NORM, HEADS)):
            weight = weight[..., :rank]
        elif name.endswith(LATENT):
            weight = weight[:rank]
        if self.attention.rope_interleave and name.endswith((HEADS, "k_proj.weight")):
            weight = weight.unflatten(0, (-1, 2, self.attention.head_dim // 2)).transpose(1, 2).flatten(0, 2)
        return self._scaled(name, weight, -1).contiguous()

    def _scaled(self, name: str, weight: Tensor, power: int) -> Tensor:
        """Times all its factors to the power of 1 or -1, in one product: of 16-bit weights each rounds."""
        factor = next((factor for kind, factor in self.factors.items() if name.endswith(kind)), 1.0)
        factor *= self.latent_scales.get(name, 1.0)
        return weight if factor == 1 else weight * factor**power


def rank_that_loads(rank: int, head_dim: int) -> int:
    """The smallest from `rank` on with which vLLM's loader finds the rows of query, key and value: it cuts the rows of
    all three at fractions of their sum, rounded down (`Step3TextModel.load_weights`, vLLM 0.32). A multiple of 8, as
    matrix units want, where `rank` is one."""

    def loads(rank: int) -> bool:
        rows = rank + 2 * head_dim
        return all(int(begin / rows * rows) == begin for begin in (rank, rank + head_dim))

    return next(filter(loads, itertools.count(rank, math.gcd(rank, 8))))
