"""The model, as transformers loads, generates with, trains and saves it."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from mfa_train.export.remote.code.cache import EntryCache
from mfa_train.export.remote.code.configuration_mfa_train import MfaTrainConfig
from mfa_train.export.remote.code.names import STEP3
from mfa_train.export.remote.code.rows import rows_of
from mfa_train.export.remote.code.variant import attention_class, attention_config
from mfa_train.model.decoder import DecoderLayer

CACHE = (
    "cache" if "cache" in {field.name for field in dataclasses.fields(CausalLMOutputWithPast)} else "past_key_values"
)
"""What transformers calls the cache; before 5.24 past_key_values."""


PLACE = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
"""Choices of `from_pretrained` that say which config.json is meant."""


class MfaTrainPreTrainedModel(PreTrainedModel):
    config_class = MfaTrainConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["e_score_correction_bias"]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *further: Any, **choices: Any) -> Any:
        """As every model's; a folder that says model_type step3_text has its names."""
        if (config := choices.get("config")) is None:
            place = {key: choices[key] for key in PLACE if key in choices}
            config = cls.config_class.from_pretrained(pretrained_model_name_or_path, **place)
        if getattr(config, "known_as", {}).get("model_type") == "step3_text":
            choices.setdefault("key_mapping", dict(STEP3))
        return super().from_pretrained(pretrained_model_name_or_path, *further, **choices)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Of weights that no file has: matrices normal, norms 1, all else (gates, sinks) 0."""
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
            elif isinstance(module, nn.RMSNorm):
                init.ones_(parameter)
            else:
                init.zeros_(parameter)


class MfaTrainModel(MfaTrainPreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: MfaTrainConfig):
        super().__init__(config)
        attention = attention_config(config.attention)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, attention, layer) for layer in range(config.num_hidden_layers))  # type: ignore[arg-type]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = attention_class(attention.name).make_rope(attention)
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: EntryCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: EntryCache | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (batch, tokens, hidden_size) of input_ids (batch, tokens), or of their embeddings.

        `attention_mask` (batch, cached + tokens) is 0 for padding, on either side. `position_ids` (batch, tokens) that
        begin anew begin a document, which no other sees, without a cache. `use_cache` None: as the config says, where
        no gradient is asked for. Raises ValueError for what it would read otherwise than was meant.
        """
        cache = past_key_values if cache is None else cache
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected one of input_ids and inputs_embeds")
        if output_attentions:
            raise ValueError("output_attentions: attention weights are never whole here")
        if position_ids is None and any(kwargs.get(key) is not None for key in ("cu_seq_lens_q", "seq_idx")):
            raise ValueError("packed documents are told by position_ids, which begin at 0 with each")
        if cache is not None and not isinstance(cache, EntryCache):
            raise ValueError(f"cache={type(cache).__name__}: expected none, or the EntryCache of an earlier output")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, tokens = x.shape[:2]
        rows = rows_of((batch, tokens), attention_mask, position_ids, cache)
        checkpointing = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        if cache is not None and checkpointing:
            raise ValueError("cache: layers that are computed a second time for their gradients can't fill one")
        if (cache is not None or use_cache) and not rows.from_zero:
            raise ValueError("position_ids: with a cache each row's go on from its last, from 0, and hold no documents")
        if cache is None and rows.from_zero and not checkpointing:
            wanted = self.config.use_cache and not torch.is_grad_enabled() if use_cache is None else use_cache
            cache = EntryCache(len(self.layers)) if wanted else None

        x = rows.to_front(x)
        if cache is not None:
            cache.capacity = max(cache.capacity, cache.length + tokens)
            positions = cache.begin(self.rope, tokens, x.device)
        else:
            positions = self.rope(torch.arange(tokens, device=x.device))
            positions = positions if rows.documents is None else positions.at(rows.documents.positions)
        every = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = []
        for index, layer in enumerate(self.layers):
            hidden_states += [rows.back(x)] if every else []
            if checkpointing:
                x, _ = self._gradient_checkpointing_func(layer.__call__, x, positions, None, rows.documents)
            else:
                x, _ = layer(x, positions, None if cache is None else cache.layers[index], rows.documents)
        if cache is not None:
            cache.advance(tokens, rows.counts)
        x = rows.back(self.norm(x))
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(*hidden_states, x) if every else None,
            **{CACHE: cache},  # type: ignore[arg-type]
        )


class MfaTrainForCausalLM(MfaTrainPreTrainedModel, GenerationMixin):
    """The model with its head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MfaTrainConfig):
        super().__init__(config)
        self.model = MfaTrainModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: EntryCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: EntryCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (batch, tokens, vocab_size), of the last `logits_to_keep` tokens or those of these places; 0: of all.

        With labels (batch, tokens), -100 where none, the mean loss of each next token. All else as of the model.
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states,
            **{CACHE: getattr(out, CACHE)},
        )

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: Any,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """`generate`'s cache, with room for what it may come to. Raises ValueError for caches of keys and values."""
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(
                f"cache_implementation={generation_config.cache_implementation}: expected none: what is cached here "
                "are the attention's own entries"
            )
        own = None if model_kwargs.get(CACHE) is not None else EntryCache(len(self.model.layers))
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        if own is not None and CACHE in model_kwargs:
            model_kwargs[CACHE] = own
        if isinstance(cache := model_kwargs.get(CACHE), EntryCache):
            cache.capacity = max(cache.capacity, max_cache_length)
