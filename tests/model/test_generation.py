"""Choosing the next token."""

import pytest
import torch

from mfa_train.attention.cache import FIRST, DecodeCache
from mfa_train.errors import DataError
from mfa_train.model.generation import choose, decode, generate
from tests.conftest import VARIANTS

LOGITS = torch.tensor([[0.1, 3.0, 0.2, 2.9], [5.0, 0.0, 0.0, 0.0]])


def draws(**options) -> list[set[int]]:
    """The tokens that 200 draws choose, for each row."""
    generator = torch.Generator().manual_seed(0)
    options = {"temperature": 1.0, "top_k": None, "top_p": None} | options
    chosen = torch.cat([choose(LOGITS.clone(), generator=generator, **options) for _ in range(200)], dim=1)
    return [set(row.tolist()) for row in chosen]


def test_temperature_zero_takes_the_likeliest():
    assert draws(temperature=0) == [{1}, {0}]


def test_top_k_keeps_the_k_likeliest():
    assert draws(top_k=1) == [{1}, {0}]
    assert draws(top_k=2, temperature=100.0)[0] == {1, 3}


def test_top_p_keeps_the_smallest_set_that_holds_p():
    assert draws(top_p=0.5)[0] == {1, 3}  # 0.50 and 0.45 of the probability: the first alone holds less than 0.5
    assert draws(top_p=0.01) == [{1}, {0}]


def test_without_bounds_every_token_can_come():
    assert draws(temperature=100.0) == [{0, 1, 2, 3}] * 2


def test_generation_stops_at_the_end_of_the_text(small_model):
    model, prompt = small_model("mfa"), torch.tensor([[5, 6, 7]])
    first = generate(model, prompt, 1, temperature=0)[0, -1].item()
    assert generate(model, prompt, 10, temperature=0, eos_id=first).shape == (1, 4)


@pytest.mark.parametrize("attention", VARIANTS)
def test_prompts_of_different_length_in_one_batch_go_on_as_each_alone_and_as_the_full_forward(attention, small_model):
    model, lengths = small_model(attention), torch.tensor([3, 11, 1, 8])
    prompts = torch.randint(0, 199, (4, 11), generator=torch.Generator().manual_seed(0))
    poisoned = prompts.masked_fill(torch.arange(11) >= lengths.unsqueeze(1), 10**9)  # no token of the model
    cache = DecodeCache(len(model.model.layers), 11 + 12)
    new = []
    for tokens in decode(model, poisoned, 12, lengths=lengths, temperature=0, cache=cache):
        new.append(tokens)
        for buffer in (buffer for layer in cache.layers for buffer in layer.buffers):
            buffer[:, cache.length :] = float("nan")  # memory may hold anything
    for row, length in enumerate(lengths.tolist()):
        prompt, told = prompts[row : row + 1, :length], torch.stack(new, dim=1)[row]
        assert torch.equal(generate(model, prompt, 12, temperature=0)[0, length:], told)
        with torch.no_grad():
            whole = torch.cat((prompt[0], told)).unsqueeze(0)
            assert torch.equal(model(whole)[0, length - 1 : -1].argmax(-1), told)


def test_prompts_of_different_length_go_on_as_each_alone_through_a_cache_in_fp8_too(small_model):
    model, prompts, lengths = small_model("mla"), torch.randint(0, 199, (3, 9)), torch.tensor([4, 9, 2])

    def greedy(prompt: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        cache = DecodeCache(len(model.model.layers), 9 + 12, torch.float8_e4m3fn)
        return torch.stack(list(decode(model, prompt, 12, lengths=lengths, temperature=0, cache=cache)), dim=1)

    alone = [greedy(prompts[row : row + 1, :length]) for row, length in enumerate(lengths)]
    assert torch.equal(greedy(prompts, lengths), torch.cat(alone))


def test_a_row_that_has_ended_goes_on_in_eos_and_the_others_as_they_would(small_model):
    model, prompt = small_model("mfa"), torch.tensor([[5, 6, 7], [9, 8, 0]])
    lengths = torch.tensor([3, 2])
    free = generate(model, prompt, 8, lengths=lengths, temperature=0)
    eos = free[0, 4].item()
    assert eos not in free[1, 3:]
    bound = generate(model, prompt, 8, lengths=lengths, temperature=0, eos_id=eos)
    assert torch.equal(bound[1], free[1]) and bound[0, 3:].tolist() == [free[0, 3].item(), *[eos] * 7]
    ended = torch.zeros(2, dtype=torch.bool)
    steps = decode(model, prompt, 8, lengths=lengths, temperature=0, ended=ended)
    assert next(steps).tolist() == free[:, 3].tolist()
    ended[:] = True  # as where a stop text is complete
    assert list(steps) == []


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-9, 1.0, 1e30, float("inf")])
def test_every_temperature_draws_a_token(temperature):
    likeliest, other = draws(temperature=temperature)
    if temperature < 1e-3:
        assert (likeliest, other) == ({1}, {0})
    if temperature > 1e3:
        assert (likeliest, other) == ({0, 1, 2, 3}, {0, 1, 2, 3})


def test_bounds_beyond_the_vocabulary_bound_nothing():
    assert draws(top_k=10**30, temperature=100.0)[0] == {0, 1, 2, 3}
    assert draws(top_p=1e-30, temperature=1e30)[0] <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 1e30}, {"temperature": 1e30, "top_k": 10**9, "top_p": 0.999}]
)
def test_ids_that_are_no_token_are_never_drawn(options, small_model):
    known = torch.arange(150) % 3 == 0  # holes below 150, and 49 ids behind
    drawn = generate(small_model("mfa"), torch.tensor([[5, 6], [7, 8]]), 9, known=known, **options)[:, 2:]
    assert known[drawn].all()


def test_a_model_that_gives_no_probabilities_is_told(small_model):
    model = small_model("mfa")
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(DataError, match="NaN or infinity"):
        generate(model, torch.tensor([[5, 6]]), 3)


def test_the_cache_of_many_allowed_tokens_grows_as_they_come(small_model):
    model, x = small_model("mfa"), torch.randint(0, 199, (1, 20))
    cache, small = (DecodeCache(len(model.model.layers), capacity) for capacity in (10**15, 20))
    with torch.no_grad():
        expected = [model(part, cache=small) for part in x.split(5, dim=1)]
        assert all(torch.equal(model(part, cache=cache), logits) for part, logits in zip(x.split(5, dim=1), expected))
    assert cache.num_bytes * 20 == small.num_bytes * FIRST
