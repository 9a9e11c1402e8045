"""mfa as Step-3's text model, which vLLM serves.

What its class lacks is made good in the query's latent q, which it norms as

    q / sqrt(mean(q²) + model.rms_norm_eps) · weight

while ours has an eps of its own, and a rank r that its loader may cut wrongly. It gets rank R >= r with zeros behind
ours, q times sqrt(rms_norm_eps / latent_norm_eps · R / r), and the norm's weight times sqrt(r / R): the same query.
Experts stand there as in the model, one weight for each matrix of all, under names of its own.
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
from mfa_train.export.formats.mixtures import SOFTMAX, mixture, require, require_shared
from mfa_train.export.formats.remote import Remote
from mfa_train.export.remote.code.names import STEP3

CLASS = "Step3TextForCausalLM"
LATENT, NORM, HEADS = "q_proj.weight", "inter_norm.weight", "wq.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Step3(WithLatents):
    attentions = ("mfa",)
    model_types = ("step3_text",)
    remote_code = True
    stacked = True

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
            **self._experts(),
        }

    def _experts(self) -> dict[str, Any]:
        if not self.has_experts:
            return {"moe_layers_enum": "-1", "moe_num_experts": 0}
        moe = self.feed_forward
        require(self, CLASS, **SOFTMAX)
        require_shared(self, CLASS)
        return {
            "moe_layers_enum": ",".join(map(str, range(moe.first_k_dense_replace, self.model.num_hidden_layers))),
            "moe_num_experts": moe.n_routed_experts,
            "moe_top_k": moe.num_experts_per_tok,
            "moe_intermediate_size": moe.moe_intermediate_size,
            "share_expert_dim": moe.n_shared_experts * moe.moe_intermediate_size,
            "norm_expert_weight": moe.norm_topk_prob,
        }

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        keys = settings.model()
        if (first := _first_with_experts(settings, keys["model.num_hidden_layers"])) is not None:
            keys |= _mixture(settings, first)
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

    def sources(self, in_model: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        tied = {HEAD: EMBEDDING} if self.model.tie_word_embeddings else {}  # there the head never is: it gets a copy
        return {_of_step3(name): ours for name, ours in super().sources(in_model).items()} | tied

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


def _of_step3(name: str) -> str:
    for theirs, ours in STEP3.items():
        name = name.replace(ours, theirs)
    return name


def _first_with_experts(settings: ConfigJson, layers: int) -> int | None:
    """The first layer that is a mixture, behind which all are; None where none is."""
    told = settings.content.get("moe_layers_enum")
    if told is None:
        return 1 if layers > 1 else None
    if isinstance(told, str) and re.fullmatch(r"-1|\d{1,9}(,\d{1,9})*", told, re.ASCII):
        numbers = sorted({int(layer) for layer in told.split(",") if -1 < int(layer) < layers})
        if numbers == list(range(layers - len(numbers), layers)):
            return numbers[0] if numbers else None
    raise settings.refused("moe_layers_enum", f"-1, or the model's last layers, as {layers - 2},{layers - 1}")


def _mixture(settings: ConfigJson, first: int) -> dict[str, Any]:
    width, shared = settings.count("moe_intermediate_size"), settings.count("share_expert_dim")
    if shared % width:
        raise settings.refused("share_expert_dim", f"a multiple of moe_intermediate_size, {width}")
    return mixture(
        settings,
        experts="moe_num_experts",
        per_token="moe_top_k",
        first=first,
        n_shared_experts=shared // width,
        moe_intermediate_size=width,
        norm_topk_prob=settings.flag("norm_expert_weight", False),
    )


def rank_that_loads(rank: int, head_dim: int) -> int:
    """The smallest from `rank` on with which vLLM's loader finds the rows of query, key and value: it cuts the rows of
    all three at fractions of their sum, rounded down (`Step3TextModel.load_weights`, vLLM 0.32). A multiple of 8, as
    matrix units want, where `rank` is one."""

    def loads(rank: int) -> bool:
        rows = rank + 2 * head_dim
        return all(int(begin / rows * rows) == begin for begin in (rank, rank + head_dim))

    return next(filter(loads, itertools.count(rank, math.gcd(rank, 8))))
