"""The output projection together with its cross-entropy, so that a batch's logits never exist all at once.

The loss is computed chunk by chunk of tokens in float32, and each chunk's gradients with it: the backward pass only
scales them, so nothing is computed twice (as in Liger Kernel, arXiv 2410.10989, section 3.2).
"""

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**26}
"""float32 logits that exist at once: 16 MiB on a CPU, what its cache holds; 256 MiB on a GPU."""
MIN_CHUNK_TOKENS = 128
"""With fewer tokens at once the matrix products waste the hardware, however large the vocabulary."""


class LanguageModelHead(nn.Module):
    """Logits, or the loss against targets. With `z_loss` > 0 the loss has z_loss · mean(log Z ²) added, in training
    only (PaLM, arXiv 2204.02311, section 5)."""

    def __init__(self, hidden_size: int, vocab_size: int, z_loss: float = 0.0):
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.z_loss = z_loss
        self.chunk_logits: int | None = None
        """float32 logits that exist at once; None: what suits the device."""
        self.max_chunks: int | None = None
        """For plans, which look at memory alone: stop after so many chunks."""

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, places: Tensor | None = None, each: bool = False
    ) -> Any:
        """From hidden (batch, tokens, hidden_size) the logits (batch, tokens, vocab_size); with targets (batch, tokens)
        their mean loss in nats, float32; with places (n,) of the flattened tokens, targets (n,) behind them: `scored`
        of each. With `each` that mean, without z_loss and gradient, and beside it every target's loss, float32 (batch,
        tokens)."""
        if targets is None:
            return hidden @ self.weight.t()
        chunk_logits = self.chunk_logits or CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"])
        hidden = hidden.flatten(0, 1)
        if places is not None:
            return scored(hidden, self.weight, targets, places, chunk_logits)
        if each:
            loss, losses = each_loss(hidden, self.weight, targets.flatten(), chunk_logits)
            return loss, losses.view_as(targets)
        z_loss = self.z_loss if self.training else 0.0
        return _ChunkedCrossEntropy.apply(hidden, self.weight, targets.flatten(), z_loss, chunk_logits, self.max_chunks)


@torch.no_grad()
def scored(hidden: Tensor, weight: Tensor, targets: Tensor, places: Tensor, chunk_logits: int) -> Tensor:
    """Of each target (n,) behind hidden[places] its log-probability in nats, and 1 where it is the likeliest id, the
    first of equal ones; else 0: (2, n) float32."""
    found = torch.empty((2, len(targets)), dtype=torch.float32, device=hidden.device)
    chunk = max(MIN_CHUNK_TOKENS, chunk_logits // weight.shape[0])
    for begin in range(0, len(targets), chunk):
        part = slice(begin, begin + chunk)
        logits = (hidden[places[part]] @ weight.t()).float()
        of_targets = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
        found[0, part] = of_targets - logits.logsumexp(dim=1)
        found[1, part] = logits.argmax(dim=1) == targets[part]
    return found


@torch.no_grad()
def each_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_logits: int) -> tuple[Tensor, Tensor]:
    """The mean loss of targets (tokens,), bit for bit what the training's forward gives of it without z_loss, and each
    target's (tokens,); float32."""
    tokens = hidden.shape[0]
    losses = torch.empty(tokens, dtype=torch.float32, device=hidden.device)
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    chunk = max(MIN_CHUNK_TOKENS, chunk_logits // weight.shape[0])
    for begin in range(0, tokens, chunk):
        part = slice(begin, begin + chunk)
        target_logits, _, _, log_z = _normalized(hidden[part], weight, targets[part].unsqueeze(1))
        of_chunk = log_z - target_logits
        loss += of_chunk.sum()
        losses[part] = of_chunk.squeeze(1)
    return loss / tokens, losses


def _normalized(hidden: Tensor, weight: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a chunk of tokens, index (tokens, 1) their targets: the targets' logits, exp(logits - the largest) (tokens,
    vocab_size), its sum and log Z; float32."""
    logits = (hidden @ weight.t()).float()
    target_logits = logits.gather(1, index)
    largest = logits.amax(dim=1, keepdim=True)
    exponentials = logits.sub_(largest).exp_()
    normalizer = exponentials.sum(dim=1, keepdim=True)
    return target_logits, exponentials, normalizer, normalizer.log() + largest


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_loss: float,
        chunk_logits: int,
        max_chunks: int | None,
    ) -> Tensor:
        tokens, vocab_size = hidden.shape[0], weight.shape[0]
        training = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if training:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        chunk = max(MIN_CHUNK_TOKENS, chunk_logits // vocab_size)
        for begin in range(0, tokens, chunk)[:max_chunks]:
            part = slice(begin, begin + chunk)
            index = targets[part].unsqueeze(1)
            target_logits, exponentials, normalizer, log_z = _normalized(hidden[part], weight, index)
            loss += (log_z - target_logits).sum()
            if z_loss:
                loss += z_loss * log_z.square().sum()
            if training:
                scale = (1 + 2 * z_loss * log_z) / (tokens * normalizer)
                grad = exponentials.mul_(scale).scatter_add_(1, index, torch.full_like(log_z, -1 / tokens))
                grad = grad.to(hidden.dtype)
                torch.mm(grad, weight, out=grad_hidden[part])
                grad_weight += grad.t() @ hidden[part]
        if training:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return loss / tokens

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        # A scalar changes no tensor's type.
        return grad_hidden * grad_loss, grad_weight * grad_loss, None, None, None, None
