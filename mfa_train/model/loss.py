"""The output projection together with its cross-entropy, so that a batch's logits never exist all at once.

The loss is computed chunk by chunk of tokens in float32, and each chunk's gradients with it: the backward pass only
scales them, so nothing is computed twice (as in Liger Kernel, arXiv 2410.10989, section 3.2).
"""

from typing import Optional

import torch
from torch import Tensor, nn

CHUNK_LOGITS = 2**24
"""Logits that exist at once, float32: 64 MiB."""
MIN_CHUNK_TOKENS = 1024
"""Below this many tokens a chunk's matrix products waste the hardware, however large the vocabulary."""


class LanguageModelHead(nn.Module):
    """Logits, or the loss against targets. With `z_loss` > 0 the loss has z_loss · mean(log Z ²) added, in training
    only (PaLM, arXiv 2204.02311, section 5)."""

    def __init__(self, hidden_size: int, vocab_size: int, z_loss: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.z_loss = z_loss

    def forward(self, hidden: Tensor, targets: Optional[Tensor] = None) -> Tensor:
        """hidden (batch, tokens, hidden_size), targets (batch, tokens)."""
        if targets is None:
            return hidden @ self.weight.t()
        z_loss = self.z_loss if self.training else 0.0
        return _ChunkedCrossEntropy.apply(hidden.flatten(0, 1), self.weight, targets.flatten(), z_loss)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        tokens, vocab_size = hidden.shape[0], weight.shape[0]
        training = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if training:
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        chunk = max(MIN_CHUNK_TOKENS, CHUNK_LOGITS // vocab_size)
        for start in range(0, tokens, chunk):
            part = slice(start, start + chunk)
            logits = (hidden[part] @ weight.t()).float()
            index = targets[part].unsqueeze(1)
            log_z = torch.logsumexp(logits, dim=1, keepdim=True)
            loss += (log_z - logits.gather(1, index)).sum()
            if z_loss:
                loss += z_loss * log_z.square().sum()
            if training:
                grad = logits.sub_(log_z).exp_()
                if z_loss:
                    grad.mul_(1 + 2 * z_loss * log_z)
                grad.scatter_add_(1, index, torch.full_like(log_z, -1.0))
                grad = grad.mul_(1 / tokens).to(hidden.dtype)
                torch.mm(grad, weight, out=grad_hidden[part])
                grad_weight += grad.t() @ hidden[part]
        if training:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return loss / tokens

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_weight * grad_loss.to(grad_weight.dtype), None, None
