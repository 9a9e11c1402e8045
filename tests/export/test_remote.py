"""Every attention as remote code: however transformers is asked, it computes what we do."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from mfa_train.budget.shape import measure
from mfa_train.export.formats import Remote
from mfa_train.export.formats.deepseek_v3 import DeepseekV3
from mfa_train.export.formats.llama import Llama
from mfa_train.export.remote.files import remote_files
from mfa_train.model.generation import generate
from tests.conftest import VARIANTS, _small_model, small_config
from tests.export.remote_folders import loaded, written

LLAMA3 = "{rope_type: llama3, factor: 4.0, original_max_position_embeddings: 64}"
EVERYTHING = (
    "attention.qk_norm=true",
    "attention.output_gate=head",
    "attention.rope_interleave=true",
    f"attention.rope_scaling={LLAMA3}",
    "model.tie_word_embeddings=true",
)


def tokens(batch: int = 2, length: int = 24) -> torch.Tensor:
    return torch.randint(1, 199, (batch, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=VARIANTS)
def attention(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def models(attention, tmp_path_factory):
    """Ours, and what transformers loads of its export."""
    folder = tmp_path_factory.mktemp("remote") / "out"
    return written(folder, attention), loaded(folder)


def test_logits_are_ours(models):
    ours, theirs = models
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=1e-5)


def test_it_generates_what_ours_does_and_caches_the_planned_bytes(models, attention):
    ours, theirs = models
    x = tokens(length=9)
    out = theirs.generate(x, max_new_tokens=6, do_sample=False, eos_token_id=None, return_dict_in_generate=True)
    assert out.sequences.tolist() == generate(ours, x, 6, temperature=0.0).tolist()
    config = small_config(attention)
    planned = measure(config.model, config.attention).cache_bytes("fp32")
    assert out.cache.num_bytes == planned * 2 * (9 + 6 - 1) and len(out.cache) == 2
    assert sum(part.untyped_storage().nbytes() for layer in out.cache.layers for part in layer.buffers) == (
        out.cache.num_bytes
    )


def test_every_key_of_the_attention_is_heeded(models, attention):
    """In training's pass over all tokens, and decoding."""
    overrides = EVERYTHING
    if "latent_scale" in small_config(attention).attention:
        overrides += ("attention.latent_scale=true", "attention.q_lora_rank=48")
    ours, plain = _small_model(attention, overrides, 0.15), models[1]
    config = type(plain.config)(**Remote(small_config(attention, overrides)).settings())
    theirs = type(plain)(config).eval()
    theirs.load_state_dict(ours.state_dict())
    x = tokens(length=9)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x).logits, ours(x), rtol=0, atol=1e-5)
        cache = theirs(x[:, :8], use_cache=True).cache
        torch.testing.assert_close(theirs(x[:, 8:], cache=cache).logits, ours(x)[:, 8:], rtol=1e-4, atol=1e-5)


def test_rows_of_a_padded_batch_generate_what_each_does_alone(models):
    """Padded in front, and on both sides with the prompt in chunks; by beams, too."""
    _, theirs = models
    x = tokens(batch=3, length=9)
    begins = (0, 5, 2)
    mask = torch.tensor([[place >= begin for place in range(9)] for begin in begins]).long()
    choices = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    alone = [theirs.generate(x[row : row + 1, begin:], **choices)[0, -6:] for row, begin in enumerate(begins)]
    for further in ({}, {"prefill_chunk_size": 4}):
        batch = theirs.generate(x, attention_mask=mask, **choices, **further)
        assert batch[:, -6:].tolist() == [row.tolist() for row in alone]
    beams = [
        theirs.generate(x, attention_mask=mask, num_beams=3, use_cache=use_cache, **choices)
        for use_cache in (True, False)
    ]
    assert beams[0].equal(beams[1])


def test_packed_documents_do_not_see_each_other(models):
    """Where padding stands among them, too."""
    _, theirs = models
    x, lengths = tokens(batch=2, length=24), (7, 1, 16)
    places = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    with torch.no_grad():
        alone = torch.cat([theirs(part).logits for part in x.split(lengths, dim=1)], dim=1)
        packed = theirs(x, position_ids=places).logits
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
        mask = torch.ones(2, 24, dtype=torch.long)
        mask[1, 8:11] = 0
        padded = theirs(x, position_ids=places, attention_mask=mask).logits
        torch.testing.assert_close(padded[0], alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(padded[1, :8], alone[1, :8], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="position_ids"):
        theirs(x, position_ids=places, use_cache=True)


@pytest.mark.parametrize(
    "attention, form, overrides",
    [
        ("gqa", Llama, ("attention.rope_interleave=true",)),
        ("mha", Llama, ("attention.qk_norm=true", f"attention.rope_scaling={LLAMA3}")),
        ("mla", DeepseekV3, ("attention.latent_scale=true", "attention.q_lora_rank=48")),
    ],
    ids=["Llama", "Qwen3", "DeepSeek-V3"],
)
def test_logits_are_those_of_transformers_own_class(attention, form, overrides, tmp_path):
    written(tmp_path / "remote", attention, *overrides)
    written(tmp_path / "native", attention, *overrides, form=form)
    native = AutoModelForCausalLM.from_pretrained(tmp_path / "native").eval()
    with torch.no_grad():
        remote = loaded(tmp_path / "remote")(tokens()).logits
        torch.testing.assert_close(remote, native(tokens()).logits, rtol=0, atol=1e-5)


def test_the_files_are_the_same_each_time_and_name_nothing_that_would_have_to_be_there():
    files = remote_files("mfa")
    assert files.keys() == {"modeling_mfa_train.py", "configuration_mfa_train.py"}
    assert b"import mfa_train" not in files["modeling_mfa_train.py"] + files["configuration_mfa_train.py"]
    assert remote_files.__wrapped__("mfa") == files
