"""What `mfa-train export` writes, loaded by transformers' own loaders."""

import inspect

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.training.export import export
from mfa_train.training.run_folder import final_checkpoint
from tests.conftest import SMALL
from tests.data.corpora import opened

SHAPE = [override for override in SMALL if "vocab_size" not in override]
YARN = "attention.rope_scaling={rope_type: yarn, factor: 4.0, original_max_position_embeddings: 64}"


@pytest.fixture
def exported(tmp_path, small_model, prepared_data):
    """`exported(attention, *overrides)`: our model, the folder exported from a run that ended with its weights."""
    def make(attention: str, *overrides: str):
        run, out = tmp_path / "run", tmp_path / "out"
        config = configs.load([f"attention={attention}", *SHAPE, f"data_dir={prepared_data}", *overrides])
        model = small_model(attention, *overrides, "model.vocab_size=4096", std=0.05)
        final_checkpoint(run).mkdir(parents=True)
        (run / "config.yaml").write_text(configs.to_yaml(config))
        save_file(dict(model.named_parameters()), final_checkpoint(run) / "model.safetensors")
        tokenizer = opened(config.data.path).tokenizer
        (final_checkpoint(run) / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
        return model, tokenizer, out, export(run, out)

    return make


@pytest.mark.parametrize("attention, overrides", [
    ("mha", []), ("gqa", [YARN]), ("mqa", ["model.tie_word_embeddings=true"]),
    ("gqa", ["attention.rope_interleave=true"]),
    ("mha", ["attention.qk_norm=true", "attention.rope_interleave=true"]), ("mla", []),
    ("mla", ["attention.q_lora_rank=null"]),
], ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_an_exported_model_gives_the_same_logits_in_transformers_and_generates(attention, overrides, exported):
    ours, _, out, told = exported(attention, *overrides)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert type(theirs).__name__ in told
    x = torch.randint(0, 4096, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (ours(x) - theirs.eval()(input_ids=x).logits).abs().max().item()
        greedy = theirs.generate(x[:1], max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
        expected = x[:1]
        for _ in range(5):
            expected = torch.cat((expected, ours(expected)[:, -1:].argmax(-1)), dim=1)
    assert difference < 1e-5
    assert greedy.tolist() == expected.tolist()


def test_the_exported_tokenizer_gives_the_same_tokens_and_the_same_text(exported):
    _, ours, out, _ = exported("mha")
    theirs = AutoTokenizer.from_pretrained(out)
    texts = [inspect.getsource(module) for module in (torch.utils, pytest, configs)] + [
        "  two  spaces\n\n\ttabs\r\n", "Ünïcödé 你好 🙂 12345", "", "class A:\n    pass", "x" * 300]
    for text in texts:
        tokens = ours.encode([text])[0].tolist()
        assert theirs.encode(text, add_special_tokens=False) == tokens
        assert theirs.decode(tokens) == text
    assert theirs.encode("a")[0] == ours.eos_id == theirs.bos_token_id


def test_what_transformers_has_no_class_for_is_said(exported):
    _, _, out, told = exported("mfa")
    assert "transformers has no class for attention=mfa" in told
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "tokenizer.model",
                                                     "tokenizer.json", "tokenizer_config.json"}


def test_what_deepseek_v3_cannot_say_is_refused(exported, tmp_path):
    with pytest.raises(ConfigError, match="attention.qk_norm=true with attention=mla"):
        exported("mla", "attention.qk_norm=true")
    assert not (tmp_path / "out").exists()
