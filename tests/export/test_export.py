"""What `mfa-train export` writes, loaded by transformers' own loaders."""

import inspect
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mfa_train import config as configs
from mfa_train.checkpoints.tokenizer import tokenizer_in
from mfa_train.checkpoints.weights import final_checkpoint
from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.errors import ConfigError, DataError
from mfa_train.export import export as export_module
from mfa_train.export.export import export
from mfa_train.training.closing_sample import sample_from_run
from tests.conftest import SMALL
from tests.data.corpora import opened
from tests.data.tokenizers import saved

SHAPE = [override for override in SMALL if "vocab_size" not in override]
YARN = "attention.rope_scaling={rope_type: yarn, factor: 4.0, original_max_position_embeddings: 64}"


@pytest.fixture
def exported(tmp_path, small_model, prepared_data):
    """`exported(attention, *overrides)`: our model, its tokenizer, the folder exported from a run that ended with its
    weights, what was told. `kind`: of a tokenizer made elsewhere (tests/data/tokenizers.py)."""

    def make(attention: str, *overrides: str, kind: str | None = None, out: Path = tmp_path / "out"):
        run = tmp_path / "run"
        config = configs.load([f"attention={attention}", *SHAPE, f"data_dir={prepared_data}", *overrides])
        model = small_model(attention, *overrides, "model.vocab_size=4096", std=0.05)
        final_checkpoint(run).mkdir(parents=True)
        (run / "config.yaml").write_text(configs.to_yaml(config))
        save_file(dict(model.named_parameters()), final_checkpoint(run) / "model.safetensors")
        tokenizer = opened(config.data.path).tokenizer if kind is None else open_tokenizer(saved(kind, tmp_path))
        (final_checkpoint(run) / tokenizer.path.name).write_bytes(tokenizer.content)
        (final_checkpoint(run) / "separator.json").write_text(json.dumps({"format": 1, **tokenizer.separator.record}))
        return model, tokenizer, out, export(run, out)

    return make


@pytest.mark.parametrize(
    "attention, overrides",
    [
        ("mha", []),
        ("gqa", [YARN]),
        ("mqa", ["model.tie_word_embeddings=true"]),
        ("gqa", ["attention.rope_interleave=true"]),
        ("mha", ["attention.qk_norm=true", "attention.rope_interleave=true"]),
        ("mla", []),
        ("mla", ["attention.q_lora_rank=null"]),
        ("mla", ["attention.q_lora_rank=48", "attention.latent_scale=true"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
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
        "  two  spaces\n\n\ttabs\r\n",
        "Ünïcödé 你好 🙂 12345",
        "",
        "class A:\n    pass",
        "x" * 300,
        "a </s> b<s>",
        "▁ its ▁own▁ sign",
    ]
    for text in texts:
        tokens = ours.encode([text])[0].tolist()
        assert theirs.encode(text, add_special_tokens=False) == tokens
        assert theirs.decode(tokens) == text
    assert theirs.encode("a")[0] == ours.eos_id == theirs.bos_token_id


@pytest.mark.parametrize(
    "attention, overrides", [("mfa_kr", []), ("gqa", ["attention.output_gate=head", "attention.rope_interleave=true"])]
)
def test_what_transformers_has_no_class_for_is_said(attention, overrides, exported):
    ours, _, out, told = exported(attention, *overrides)
    gate = " with attention.output_gate=head" if overrides else ""
    assert f"transformers has no class for attention={attention}{gate}, so" in told
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((out / "config.json").read_text())["model_type"] == f"mfa_train_{attention}"
    weights = load_file(out / "model.safetensors")
    assert all(weights[name].equal(weight) for name, weight in ours.named_parameters())


@pytest.mark.parametrize("override", ["attention.qk_norm=true", "attention.latent_norm_eps=1e-5"])
def test_what_deepseek_v3_cannot_say_is_refused(override, exported, tmp_path):
    with pytest.raises(ConfigError, match=f"{override[:-2]}.* with attention=mla"):
        exported("mla", override)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind, file",
    [
        ("sentencepiece BPE", "tokenizer.model"),
        ("sentencepiece BPE with a prefix alone", "tokenizer.json"),
        ("T5's", "tokenizer.json"),
        ("byte-level with ordinary tokens added", "tokenizer.json"),
    ],
)
def test_a_tokenizer_made_elsewhere_is_exported_as_it_was_in_training(kind, file, exported):
    _, ours, out, told = exported("gqa", "data=prepared", "data.path=anywhere", kind=kind)
    theirs = AutoTokenizer.from_pretrained(out)
    for text in ("hello world", "ﬁne  </s> value", "return value<unk>"):
        tokens = ours.encode([text])[0].tolist()
        assert theirs.encode(text, add_special_tokens=False) == tokens
        assert theirs(text)["input_ids"] == [ours.eos_id, *tokens]
    assert (out / file).exists() and ("no tokenizer.json" in told) == (file == "tokenizer.model")


def test_transformers_never_draws_ids_that_are_no_token(exported):
    _, ours, out, told = exported("gqa", kind="trained here")
    theirs = AutoModelForCausalLM.from_pretrained(out)
    assert theirs.config.vocab_size == 4096 > ours.vocab_size and "ids that are no token (3,766" in told
    drawn = theirs.generate(
        torch.full((4, 1), ours.eos_id),
        max_new_tokens=8,
        do_sample=True,
        temperature=9.0,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert drawn.max() < ours.vocab_size


def test_the_separator_is_the_one_that_was_recorded(tmp_path):
    saved("trained here", tmp_path)
    assert tokenizer_in(tmp_path, eos_token="<s>").eos_id == 1  # a run from before records: its config tells
    (tmp_path / "separator.json").write_text('{"format": 1, "token": "</s>", "id": 2}')
    assert tokenizer_in(tmp_path, eos_token="<s>").eos_id == 2
    for damaged in (
        "",
        "[]",
        '{"format": 2, "token": "</s>", "id": 2}',
        '{"format": 1, "token": "</s>", "id": 5}',
        '{"format": 1}',
    ):
        (tmp_path / "separator.json").write_text(damaged)
        with pytest.raises(DataError):
            tokenizer_in(tmp_path, None)


@pytest.mark.parametrize("place", ["there", "file/out", "dangling", "x" * 300])
def test_a_place_that_cannot_be_written_is_told_and_left_as_it_was(place, exported, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="--out=.*type --out=FOLDER"):
        exported("mha", out=tmp_path / place)
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file", "dangling", "run"}


def test_a_full_disk_leaves_nothing_half_written(exported, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "save_file", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        exported("mha")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_final_weights_that_are_not_the_models_are_told(exported, tmp_path):
    exported("mha")
    save_file({"model.norm.weight": torch.zeros(3)}, final_checkpoint(tmp_path / "run") / "model.safetensors")
    with pytest.raises(DataError, match="train again with resume=never"):
        sample_from_run(configs.of_run(tmp_path / "run"), tmp_path / "run")
    with pytest.raises(DataError, match="model.embed_tokens.weight is not there"):
        export(tmp_path / "run", tmp_path / "again")


@pytest.mark.parametrize("prompt", ["", "</s><s>", "\x00\x07\x1b[2J", "word " * 400])
def test_any_text_is_a_prompt(prompt, exported, tmp_path):
    exported("mfa")
    config = configs.of_run(
        tmp_path / "run", ["sample.max_new_tokens=2", "sample.temperature=1e-6", "sample.top_k=100000"]
    )
    config.sample.prompt = prompt
    assert sample_from_run(config, tmp_path / "run").startswith(prompt)
    config.sample.prompt = "\udcff"
    with pytest.raises(ConfigError, match=r"sample.prompt='.udcff': character 1 is half of a surrogate pair"):
        sample_from_run(config, tmp_path / "run")
