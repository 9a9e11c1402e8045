"""The chunked loss is torch's cross-entropy, and never holds the logits of a batch."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mfa_train.model.loss import LanguageModelHead

HIDDEN, VOCAB = 16, 9001


def head_and_data(z_loss=0.0, dtype=torch.float32, tokens=1000):
    generator = torch.Generator().manual_seed(0)
    head = LanguageModelHead(HIDDEN, VOCAB, z_loss)
    head.weight.data.normal_(0, 0.5, generator=generator)
    hidden = torch.randn(2, tokens // 2, HIDDEN, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, VOCAB, (2, tokens // 2), generator=generator)
    return head.to(dtype), hidden, targets


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_value_and_gradients_are_those_of_torchs_cross_entropy(z_loss):
    head, hidden, targets = head_and_data(z_loss)
    loss = head(hidden, targets)
    found = torch.autograd.grad(3 * loss, (hidden, head.weight))
    logits = (hidden @ head.weight.t()).flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten()) + z_loss * logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(found, torch.autograd.grad(3 * expected, (hidden, head.weight))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_evaluation_leaves_the_z_loss_out():
    head, hidden, targets = head_and_data(z_loss=1.0)
    plain = F.cross_entropy((hidden @ head.weight.t()).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(head.eval()(hidden, targets), plain)


def test_the_loss_of_bf16_values_is_summed_in_float32():
    head, hidden, targets = head_and_data(dtype=torch.bfloat16)
    loss = head(hidden, targets)
    logits = (hidden @ head.weight.t()).flatten(0, 1).double()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits, targets.flatten()).item(), rel=1e-6)


def test_the_logits_of_the_batch_never_exist_at_once():
    head, hidden, targets = head_and_data()

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    with Largest() as largest:
        head(hidden, targets).backward()
    assert VOCAB * 100 < largest.numel < VOCAB * 1000 * 0.6


def test_each_targets_loss_is_told_beside_the_mean_and_changes_no_bit_of_it():
    head, hidden, targets = head_and_data(z_loss=0.1)
    loss, losses = head.eval()(hidden, targets, each=True)
    assert loss.item() == head(hidden, targets).item()
    logits = (hidden @ head.weight.t()).flatten(0, 1)
    torch.testing.assert_close(losses.flatten(), F.cross_entropy(logits, targets.flatten(), reduction="none"))
