"""What `mfa-train export` writes, loaded by transformers' own loaders."""

import hashlib
import inspect
import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from mfa_train import config as configs
from mfa_train.budget.shape import measure
from mfa_train.checkpoints.tokenizer import tokenizer_in
from mfa_train.checkpoints.weights import final_checkpoint
from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.errors import ConfigError, DataError
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


def test_what_transformers_has_no_class_for_is_said(exported):
    ours, _, out, told = exported("mfa_kr")
    assert "loads in transformers as MfaTrainForCausalLM, with trust_remote_code=True" in told
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "model.safetensors",
        "config.json",
        "modeling_mfa_train.py",
        "configuration_mfa_train.py",
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((out / "config.json").read_text())["model_type"] == "mfa_train"
    weights = load_file(out / "model.safetensors")
    assert all(weights[name].equal(weight) for name, weight in ours.named_parameters())


@pytest.mark.parametrize(
    "attention, overrides, told",
    [
        ("mla", ["attention.qk_norm=true"], "attention.qk_norm=true with attention=mla: DeepSeek-V3 has no such norms"),
        ("mla", ["attention.latent_norm_eps=1e-5"], "attention.latent_norm_eps=1e-05 with attention=mla"),
        ("mla", ["attention.output_gate=element"], "attention.output_gate=element: DeepseekV3ForCausalLM has no gate"),
        ("mqa", ["attention.output_gate=head"], "attention.output_gate=head: LlamaForCausalLM has no gate"),
        ("gqa", ["attention.qk_norm=true", "model.rms_norm_eps=1e-5"], "model.rms_norm_eps=1e-05 with attention.qk_n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_class_lacks_is_refused_by_its_key_before_the_weights_are_opened(attention, overrides, told, tmp_path):
    config = configs.load([f"attention={attention}", *SMALL, *overrides])
    (tmp_path / "config.yaml").write_text(configs.to_yaml(config))
    with pytest.raises(ConfigError, match=rf"^{re.escape(told)}.*: type --format remote$"):
        export(tmp_path, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml"}


def test_an_attention_that_no_other_tool_has_is_refused_as_hf(tmp_path):
    (tmp_path / "config.yaml").write_text(configs.to_yaml(configs.load(["attention=mfa_kr", *SMALL])))
    with pytest.raises(ConfigError, match=r"^--format=hf: transformers has no class for attention=mfa_kr: type --for"):
        export(tmp_path, tmp_path / "out", form="hf")


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


def test_the_card_is_read_by_the_hub_and_names_no_place_of_this_machine(exported, tmp_path):
    texts = ["/home/me/corpus/*.jsonl", "~/notes/*.txt", "https://host/a.jsonl", "file:///mnt/b.txt", "corpus/c.txt"]
    _, tokenizer, out, _ = exported("mla", "data=files", "data.name=mine", f"data.files={texts}", kind="trained here")
    card = ModelCard.load(out / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mfa_train", "mla"],
    }
    told = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card.text, re.DOTALL)[1])
    assert told["data"]["files"] == ["*.jsonl", "*.txt", "https://host/a.jsonl", "b.txt", "corpus/c.txt"]
    assert "runs_dir" not in told and "path" not in told["data"] and told["attention"]["kv_lora_rank"]
    weights = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    assert weights in card.text and tokenizer.sha256 in card.text
    assert not re.search(rf"/home|/mnt|{tmp_path}|vllm", card.text)  # vLLM serves other widths of MLA alone
    plan = measure(configs.of_run(tmp_path / "run").model, told["attention"])
    assert f"| KV cache | {plan.cache_bytes('bf16'):,} bytes per token in bf16" in card.text
    began = {"source": "/home/me/llama", "kind": "llama", "sha256": "4a99d252"}
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"init_from": began}))
    export(tmp_path / "run", tmp_path / "again")
    text = (tmp_path / "again" / "README.md").read_text()
    assert "| began with weights | llama, `4a99d252` |" in text and "/home" not in text


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


def test_a_disk_without_room_is_told_before_and_one_that_fills_up_leaves_nothing_half_written(exported, tmp_path):
    exported("mha")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # a write fails in the midst of the weights
    try:
        with pytest.raises(ConfigError, match=r"cannot be written \(File too large\)"):
            export(tmp_path / "run", tmp_path / "again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(ConfigError, match="the weights take 2.267 MiB, and its disk has 1 KiB left; type --out=FOLDER"),
    ):
        patched.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30, 2**10))
        export(tmp_path / "run", tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "out"}


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
