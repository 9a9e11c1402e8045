"""A decoder language model of the Llama kind, with any attention of `mfa_train.attention`.

Parameters are named as in Hugging Face's Llama, DeepSeek-V3 and Step3 text models, so that weights go in and out
without a translation table: `model.layers.0.self_attn.q_proj.weight`, …
"""

import torch
from torch import Tensor, nn

from mfa_train.attention import AttentionConfig, attention_class
from mfa_train.attention.cache import DecodeCache, LayerCache
from mfa_train.attention.documents import Documents
from mfa_train.attention.rope import Positions
from mfa_train.config import ModelConfig
from mfa_train.model.feed_forward import FeedForward
from mfa_train.model.loss import LanguageModelHead
from mfa_train.model.recompute import keeping


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each of the normed stream and added to it."""

    def __init__(self, config: ModelConfig, attention: AttentionConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        variant = attention_class(attention.name)
        self.self_attn = variant(config.hidden_size, attention)  # type: ignore[call-arg]  # a variant knows its widths
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: Tensor, positions: Positions, cache: LayerCache | None = None, documents: Documents | None = None
    ) -> Tensor:
        """x (batch, tokens, hidden_size) to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), positions, cache, documents)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and final norm: tokens (batch, tokens) to hidden states (batch, tokens, hidden_size)."""

    def __init__(self, config: ModelConfig, attention: AttentionConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, attention) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = attention_class(attention.name).make_rope(attention)
        self.activation_checkpointing = "none"

    def forward(
        self,
        tokens: Tensor,
        cache: DecodeCache | None = None,
        documents: Documents | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        if cache is not None:
            positions = cache.begin(self.rope, tokens.shape[1], tokens.device)
        elif documents is not None:
            positions = self.rope(torch.arange(tokens.shape[1], device=tokens.device)).at(documents.positions)
        else:
            positions = self.rope(torch.arange(tokens.shape[1], device=tokens.device))
        x = self.embed_tokens(tokens)
        for index, layer in enumerate(self.layers):
            entries = cache.layers[index] if cache else None
            kept = self.activation_checkpointing if torch.is_grad_enabled() else "none"
            x = keeping(kept, layer, x, positions, entries, documents)
        if cache is not None:
            cache.advance(tokens.shape[1], lengths)
        return self.norm(x)


class LanguageModel(nn.Module):
    """A language model: the decoder with its head."""

    def __init__(self, config: ModelConfig, attention: AttentionConfig, z_loss: float = 0.0):
        super().__init__()
        self.model = Decoder(config, attention)
        self.lm_head = LanguageModelHead(config.hidden_size, config.vocab_size, z_loss)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        cache: DecodeCache | None = None,
        documents: Documents | None = None,
        lengths: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Mean loss in nats per target, float32; without targets the logits (batch, tokens, vocab_size); with `places`
        what the head says of single targets (`loss.scored`).

        tokens and targets (batch, tokens); with a `cache`, tokens follow those it holds, and prompts of different
        length stand at the front of their rows, `lengths` (batch,) of them; with `documents` instead, each document of
        the batch is read as if it stood alone.
        """
        return self.lm_head(self.model(tokens, cache, documents, lengths), targets, places)
