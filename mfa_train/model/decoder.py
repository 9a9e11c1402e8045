"""A decoder language model of the Llama kind, with any attention of `mfa_train.attention`.

Parameters are named as in Hugging Face's Llama, DeepSeek-V3 and Step3 text models, so that weights go in and out
without a translation table: `model.layers.0.self_attn.q_proj.weight`, …
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mfa_train.attention import AttentionConfig, attention_class
from mfa_train.attention.cache import DecodeCache, LayerCache
from mfa_train.attention.documents import Documents
from mfa_train.attention.rope import Positions
from mfa_train.attention.shared import SharedSequence
from mfa_train.config import ModelConfig
from mfa_train.feed_forward import Routed, feed_forward_of
from mfa_train.model.loss import LanguageModelHead
from mfa_train.model.recompute import keeping
from mfa_train.parallel.groups import ALONE, WHOLE_SEQUENCES, ExpertGroup


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each of the normed stream and added to it."""

    def __init__(self, config: ModelConfig, attention: AttentionConfig, layer: int, group: ExpertGroup = ALONE):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        variant = attention_class(attention.name)
        self.self_attn = variant(config.hidden_size, attention)  # type: ignore[call-arg]  # a variant knows its widths
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = feed_forward_of(config, layer, group)

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        cache: LayerCache | None = None,
        documents: Documents | None = None,
        sequence: SharedSequence | None = None,
    ) -> tuple[Tensor, Routed]:
        """x (batch, tokens, hidden_size) to the same shape, and what the feed-forward says beside."""
        x = x + self.self_attn(self.input_layernorm(x), positions, cache, documents, sequence)
        y, routed = self.mlp(self.post_attention_layernorm(x), sequence.group if sequence else WHOLE_SEQUENCES)
        return x + y, routed


class Decoder(nn.Module):
    """Embedding, layers and final norm: tokens (batch, tokens) to hidden states (batch, tokens, hidden_size), and the
    sum of what feed-forwards add to the loss, None where they add none."""

    routed: tuple[Tensor, Tensor, int] | None = None
    """Of the passes in training since it was taken, where there are experts: the tokens that each was given (layers,
    experts), the sum over passes of what else was told (layers, 2), and the passes."""

    def __init__(
        self, config: ModelConfig, attention: AttentionConfig, layers: Iterable[int], group: ExpertGroup = ALONE
    ):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, attention, layer, group) for layer in layers)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rope = attention_class(attention.name).make_rope(attention)
        self.activation_checkpointing = "none"

    def forward(
        self,
        tokens: Tensor,
        cache: DecodeCache | None = None,
        documents: Documents | None = None,
        lengths: Tensor | None = None,
        sequence: SharedSequence | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        length = tokens.shape[1] if sequence is None else sequence.tokens
        positions = self._positions(length, tokens.device, cache, documents, sequence)
        x, of_layers = self.embed_tokens(tokens), []
        for index, layer in enumerate(self.layers):
            entries = cache.layers[index] if cache else None
            kept = self.activation_checkpointing if torch.is_grad_enabled() else "none"
            x, routed = keeping(kept, layer, x, positions, entries, documents, sequence)
            if routed:
                of_layers.append(routed)
        if cache is not None:
            cache.advance(length, lengths)
        return self.norm(x), self._loss_of(of_layers) if of_layers else None

    def _positions(
        self,
        length: int,
        device: torch.device,
        cache: DecodeCache | None,
        documents: Documents | None,
        sequence: SharedSequence | None,
    ) -> Positions:
        behind = cache.begin(self.rope, length, device) if cache is not None else None
        if sequence is not None:
            return sequence.begin(self.rope, device)
        if behind is not None:
            return behind
        of_all = self.rope(torch.arange(length, device=device))
        return of_all if documents is None else of_all.at(documents.positions)

    def _loss_of(self, of_layers: list[Routed]) -> Tensor:
        losses, loads, of_pass = map(torch.stack, zip(*of_layers))
        load, told, passes = self.routed or (torch.zeros_like(loads), torch.zeros_like(of_pass), 0)
        self.routed = load + loads, told + of_pass, passes + 1
        return losses.sum()


class LanguageModel(nn.Module):
    """A language model: the decoder with its head. `layers`: which of the config's, where not all are wanted; `group`:
    the ranks that share experts out."""

    def __init__(
        self,
        config: ModelConfig,
        attention: AttentionConfig,
        z_loss: float = 0.0,
        layers: Iterable[int] | None = None,
        group: ExpertGroup = ALONE,
    ):
        super().__init__()
        self.model = Decoder(config, attention, range(config.num_hidden_layers) if layers is None else layers, group)
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
        sequence: SharedSequence | None = None,
        each: bool = False,
    ) -> Any:
        """Mean loss in nats per target, float32, in training with what experts' balancing adds; without targets the
        logits (batch, tokens, vocab_size); with `places` what the head says of single targets (`loss.scored`); with
        `each` the mean and every target's loss (batch, tokens), of a model in evaluation.

        tokens and targets (batch, tokens); with a `cache`, tokens follow those it holds, and prompts of different
        length stand at the front of their rows, `lengths` (batch,) of them; with `documents` instead, each document of
        the batch is read as if it stood alone. With a `sequence` tokens and targets are those of it that this rank has.
        """
        hidden, of_feed_forwards = self.model(tokens, cache, documents, lengths, sequence)
        found = self.lm_head(hidden, targets, places, each)
        return found if of_feed_forwards is None or targets is None else found + of_feed_forwards


def weights_of_model(model: nn.Module) -> dict[str, Tensor]:
    """What is kept of a model, by name: its parameters, and what is learnt without a gradient (persistent buffers, as
    a router's bias), float32 always. A tied head is not among them."""
    persistent = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
    return dict(model.named_parameters()) | buffers
