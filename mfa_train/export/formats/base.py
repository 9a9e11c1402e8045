"""What a form is: the keys of its config.json, and how our weights stand in it.

Most of our names are Hugging Face's; a form may rename a weight, and hold it in another order of rows, with a scale
multiplied in, with more rows or columns, a second time, or those of all experts as one (`stacked`).
"""

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mfa_train.attention import AttentionConfig, attention_config
from mfa_train.attention.latent import LatentNorm
from mfa_train.config import Config
from mfa_train.errors import ConfigError
from mfa_train.export.formats.config_json import ROPE, ConfigJson
from mfa_train.feed_forward import feed_forward_config
from mfa_train.feed_forward.names import on_disk
from mfa_train.model.decoder import LanguageModel

VLLM_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths of a head that vLLM's attention takes on a CPU too."""


class FormatCannotSay(ConfigError):
    """The form lacks what this model has; the message names the key."""


class Format(ABC):
    """One model in one form. Raises FormatCannotSay where the form lacks what the model has."""

    attentions: ClassVar[tuple[str, ...]]
    """That have this form."""
    feed_forwards: ClassVar[tuple[str, ...]] = ("dense", "experts")
    """That it has, behind these attentions."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """Of its config.json, where it is a form of others."""
    remote_code: ClassVar[bool] = False
    """Whether Python lies beside the weights, which transformers runs with trust_remote_code=True alone."""
    stacked: ClassVar[bool] = False
    """Whether a matrix of a layer's experts is one weight there, as in the model, or one for each, as on disk."""

    def __init__(self, config: Config):
        self.config, self.model = config, config.model
        self.attention: Any = attention_config(config.attention)
        """The variant's own config."""
        self.feed_forward: Any = feed_forward_config(config.model.feed_forward)
        """The kind's own config."""

    @classmethod
    def has(cls, config: Config) -> bool:
        """Whether it is a form of the config's attention and feed-forward."""
        return config.attention["name"] in cls.attentions and config.model.feed_forward["name"] in cls.feed_forwards

    @property
    def has_experts(self) -> bool:
        """Whether any layer is a mixture of experts."""
        layers = range(self.model.num_hidden_layers)
        return any(self.feed_forward.in_layer(layer) != "dense" for layer in layers)

    @property
    @abstractmethod
    def loads(self) -> str:
        """What loads it, for a person."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """config.json, without what weights and tokenizer tell."""

    @classmethod
    def overrides(cls, settings: ConfigJson) -> dict[str, Any]:
        """`settings` undone: our keys that make the model, attention=NAME and feed_forward=NAME among them. Raises
        ConfigError for what no model here has."""
        return settings.ours()

    def sources(self, in_model: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
        """Which of our weights each of the form's is made of: by its name on disk, or in the model, whose weights have
        the shapes `in_model`."""
        return {name: name for name in (in_model if self.stacked else on_disk(in_model))}

    def shapes(self, in_model: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Of the form's weights, by its names, where the model's have the shapes `in_model`."""
        ours = {**in_model, **on_disk(in_model)}
        return {
            name: tuple(self.there(name, torch.empty(ours[source], device="meta")).shape)
            for name, source in self.sources(in_model).items()
        }

    def there(self, name: str, weight: Tensor) -> Tensor:
        """The form's `name` of our weight."""
        return weight

    def here(self, name: str, weight: Tensor) -> Tensor:
        """`there` undone."""
        return weight

    def rows_together(self, name: str) -> int | None:
        """How many rows of the form's `name` are enough for `here`, or a multiple of them; None: all."""
        return 1 if type(self).here is Format.here else None

    def files(self) -> dict[str, bytes]:
        """What lies beside config.json and the weights, by name."""
        return {}

    @property
    def served_by_vllm(self) -> bool:
        """Whether `vllm serve` takes it, on a CPU too (docs/serving.md)."""
        return False

    def common(self) -> dict[str, Any]:
        """Keys that all forms have."""
        model, attention = self.model, self.attention
        return {
            "hidden_size": model.hidden_size,
            "num_hidden_layers": model.num_hidden_layers,
            "intermediate_size": model.intermediate_size,
            "vocab_size": model.vocab_size,
            "rms_norm_eps": model.rms_norm_eps,
            "max_position_embeddings": model.max_position_embeddings,
            "tie_word_embeddings": model.tie_word_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "num_attention_heads": attention.num_attention_heads,
            "rope_parameters": rope_parameters(attention),
        }

    def require_no_gate(self) -> None:
        """Raises FormatCannotSay where the attention has an output gate, which no form of others has."""
        if (gate := self.attention.output_gate) != "none":
            raise FormatCannotSay(f"attention.output_gate={gate}: {self.loads} has no gate behind its heads")


class WithLatents(Format):
    """A form without a scale behind the norms of latents: it goes into their weights."""

    @functools.cached_property
    def latent_scales(self) -> dict[str, float]:
        """By the name of a norm's weight, where there is one."""
        with torch.device("meta"):
            model = LanguageModel(self.model, self.attention)
        norms = ((f"{name}.weight", module) for name, module in model.named_modules() if isinstance(module, LatentNorm))
        return {name: norm.factor for name, norm in norms if norm.factor != 1}

    def there(self, name: str, weight: Tensor) -> Tensor:
        return weight * self.latent_scales[name] if name in self.latent_scales else weight

    def here(self, name: str, weight: Tensor) -> Tensor:
        return weight / self.latent_scales[name] if name in self.latent_scales else weight


def rope_parameters(attention: AttentionConfig) -> dict[str, Any]:
    """As transformers 5 holds them."""
    scaling = dataclasses.asdict(attention.rope_scaling) if attention.rope_scaling else {"rope_type": "default"}
    kind = scaling["rope_type"]
    return {"rope_type": kind, "rope_theta": attention.rope_theta, **{key: scaling[key] for key in ROPE[kind]}}


def type_name(dtype: torch.dtype) -> str:
    """As config.json has it."""
    return str(dtype).removeprefix("torch.")
