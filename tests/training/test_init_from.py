"""Runs that begin with weights that are there: transformers' own, exported ones, other runs'."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mfa_train import config as configs
from mfa_train.config import Member, default_attention
from mfa_train.data.tokenizer import open_tokenizer
from mfa_train.errors import ConfigError, DataError
from mfa_train.export.formats import NATIVE, REMOTE, ConfigJson, form_of
from mfa_train.launch.checks import Checks
from mfa_train.launch.plans import plan_of
from mfa_train.training.init_from.begin import loss_to_begin_with
from mfa_train.training.init_from.same_model import require_same_model
from mfa_train.training.init_from.same_tokenizer import require_same_tokenizer
from mfa_train.training.init_from.source import open_source
from tests.conftest import ROOT, SMALL
from tests.data.corpora import opened
from tests.data.tokenizers import saved
from tests.training.sources import filled

YARN = "attention.rope_scaling={rope_type: yarn, factor: 4.0, original_max_position_embeddings: 64}"
LLAMA3 = "attention.rope_scaling={rope_type: llama3, factor: 2.0, original_max_position_embeddings: 32}"
COMMON = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
MLA = ["attention=mla", *(f"attention.{key}={value}" for key, value in LATENT.items())]
EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
ROTATED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 2.0, "original_max_position_embeddings": 32}
THEIRS = {
    "Llama": (
        transformers.LlamaForCausalLM,
        {**GROUPED, "rms_norm_eps": 1e-5, "rope_parameters": {**ROTATED, "low_freq_factor": 1, "high_freq_factor": 4}},
        ["attention=gqa", "model.rms_norm_eps=1e-5", "attention.rope_theta=5e5", LLAMA3],
    ),
    "Llama, rotated side by side here": (
        transformers.LlamaForCausalLM,
        {**GROUPED, "rms_norm_eps": 1e-6, "num_key_value_heads": 4},
        ["attention=mha", "attention.rope_interleave=true"],
    ),
    "Qwen3, tied": (
        transformers.Qwen3ForCausalLM,
        {**GROUPED, "tie_word_embeddings": True, "rms_norm_eps": 1e-6},
        ["attention=gqa", "attention.qk_norm=true", "model.tie_word_embeddings=true"],
    ),
    "DeepSeek-V3": (
        transformers.DeepseekV3ForCausalLM,
        {**LATENT, "num_key_value_heads": 4, "first_k_dense_replace": 2, "num_nextn_predict_layers": 0},
        [*MLA, "attention.latent_scale=true"],
    ),
    "DeepSeek-V3 with experts": (
        transformers.DeepseekV3ForCausalLM,
        {**LATENT, **EXPERTS, "n_routed_experts": 8, "n_shared_experts": 2, "n_group": 4, "topk_group": 2},
        [
            *("attention=mla", *MLA[1:], "feed_forward=experts", "model.feed_forward.scoring_func=sigmoid"),
            *(f"model.feed_forward.{key}={value}" for key, value in EXPERTS.items()),
            *("model.feed_forward.n_routed_experts=8", "model.feed_forward.n_shared_experts=2"),
            *("model.feed_forward.n_group=4", "model.feed_forward.topk_group=2"),
            *("model.feed_forward.routed_scaling_factor=2.5", "model.feed_forward.bias_update_speed=0.02"),
        ],
    ),
    "Mixtral": (
        transformers.MixtralForCausalLM,
        {**GROUPED, "num_local_experts": 8, "num_experts_per_tok": 3, "rms_norm_eps": 1e-6},
        [
            *("attention=gqa", "feed_forward=experts", "model.feed_forward.n_shared_experts=0"),
            *("model.feed_forward.n_routed_experts=8", "model.feed_forward.num_experts_per_tok=3"),
            *("model.feed_forward.moe_intermediate_size=96", "attention.rope_theta=1e6"),
        ],
    ),
}
"""transformers' class, its config, and the same model here."""


@pytest.fixture(autouse=True)
def few_values_at_once(monkeypatch):
    monkeypatch.setattr("mfa_train.checkpoints.safetensors_folder.AT_ONCE", 1500)


@pytest.fixture
def theirs(tmp_path):
    """`theirs(name)`: a model of transformers, random, saved in shards, and our overrides."""

    def make(name: str, shard: str = "60KB") -> tuple[torch.nn.Module, list[str]]:
        kind, settings, overrides = THEIRS[name]
        torch.manual_seed(7)
        model = kind(kind.config_class(**COMMON, **settings)).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms off their trivial start
                torch.nn.init.normal_(parameter, 1.0, 0.3)
        model.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
        return model, [*SMALL, *overrides]

    return make


def changed(path: Path, **keys) -> None:
    settings = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


@pytest.mark.parametrize("name", THEIRS)
def test_weights_of_transformers_give_its_logits(name, theirs, tmp_path):
    model, overrides = theirs(name)
    config = configs.load(overrides)
    source = open_source(str(tmp_path / "theirs"), config)
    told = require_same_model(source)
    assert told[0] == f"model.max_position_embeddings is 256 here and {model.config.max_position_embeddings} there"
    assert all("bias_update_speed" in line for line in told[1:])
    tokens = torch.randint(0, 199, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        assert (filled(config, source)(tokens) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_under_zero_3_two_ranks_read_their_own_part_and_give_the_logits_of_one(theirs, tmp_path):
    model, overrides = theirs("Llama, rotated side by side here")
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("tests/training/init_from_ranks.py", str(tmp_path / "theirs"), *overrides),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=300,
    )
    with torch.no_grad():
        expected = model(input_ids=torch.arange(34).view(2, 17)).logits
    for name, near in {"zero-1-float32": 1e-5, "zero-3-float32": 1e-5, "zero-3-bfloat16": 5e-2}.items():
        found = torch.load(tmp_path / "theirs" / f"{name}.logits", weights_only=True)
        assert (found - expected).abs().max() < near * expected.abs().max()
    summed = subprocess.check_output("sha256sum *.safetensors | sha256sum", shell=True, cwd=tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs" / "record").read_text())["sha256"] == summed.split()[0].decode()


@pytest.mark.parametrize(
    "overrides",
    [
        ["attention=mha", YARN],
        ["attention=mqa", "model.tie_word_embeddings=true", LLAMA3],
        ["attention=gqa", "attention.rope_scaling={rope_type: linear, factor: 3.0}", "model.rms_norm_eps=1e-5"],
        ["attention=gqa", "attention.qk_norm=true", "attention.rope_theta=1e6"],
        [*MLA, "attention.rope_interleave=false"],
        ["attention=mla", "attention.q_lora_rank=null"],
        ["attention=mfa", "attention.rope_scaling={rope_type: linear, factor: 3.0}"],
        ["attention=tpa", YARN, "attention.output_gate=head"],
    ],
    ids=" ".join,
)
def test_every_form_says_the_keys_of_its_own_config_json(overrides, small_model):
    config = configs.load([*SMALL, *overrides])
    for form in (*NATIVE, REMOTE):
        if not form.has(config):
            continue
        settings = form(config).settings()
        keys = form_of(read := ConfigJson(json.loads(json.dumps(settings)))).overrides(read)
        model = dataclasses.replace(config.model, **{key[6:]: keys[key] for key in keys if key.startswith("model.")})
        node = default_attention(keys["attention"], model)
        node |= {key[10:]: value for key, value in keys.items() if key.startswith("attention.")}
        assert keys["attention"] == config.attention["name"]
        assert form(dataclasses.replace(config, model=model, attention=node)).settings() == settings


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "attention=gqa",
            "attention.rope_interleave=true",
            "attention.qk_norm=true",
            "attention.num_key_value_heads=2",
        ],
        ["attention=mla", "attention.latent_scale=true", "attention.rope_interleave=false"],
        ["attention=mfa", "attention.rope_interleave=true", "attention.latent_scale=true"],
        ["attention=tpa", "attention.output_gate=element"],
    ],
    ids=" ".join,
)
def test_every_form_is_read_back_as_the_same_function(overrides, small_model, tmp_path):
    model, config = small_model(*[overrides[0][10:], *overrides[1:]]), configs.load([*SMALL, *overrides])
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tokens = torch.randint(0, 199, (2, 33), generator=torch.Generator().manual_seed(0))
    for number, kind in enumerate((*NATIVE, REMOTE)):
        if not kind.has(config) or (kind in NATIVE and overrides[-1].endswith("element")):
            continue
        form, folder = kind(config), tmp_path / str(number)
        folder.mkdir()
        sources = form.sources({name: tuple(parameter.shape) for name, parameter in parameters.items()})
        weights = {theirs: form.there(theirs, parameters[ours]).contiguous() for theirs, ours in sources.items()}
        save_file(weights, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(form.settings()))
        source = open_source(str(folder), config)
        assert require_same_model(source) == []
        with torch.no_grad():
            assert (filled(config, source)(tokens) - model(tokens)).abs().max() < 1e-5


def test_what_is_typed_as_an_error_says_makes_the_model_the_sources(theirs, tmp_path):
    theirs("Llama")
    for start in ([], ["attention=mha"], ["attention=mfa", "attention.rope_theta=3"]):
        with pytest.raises(ConfigError) as refused:
            require_same_model(open_source(str(tmp_path / "theirs"), configs.load(start)))
        told, _, typed = str(refused.value).partition("; type ")
        assert "model.hidden_size is 192 here and 64 there" in told and " more" in told
        require_same_model(open_source(str(tmp_path / "theirs"), configs.load([*start, *typed.split()])))
    differing = configs.load([*SMALL, *THEIRS["Llama"][2], "attention.output_gate=head"])
    with pytest.raises(ConfigError, match="attention.output_gate is head here and none there.*g_proj.weight: .4, 64."):
        require_same_model(open_source(str(tmp_path / "theirs"), differing))
    with pytest.raises(ConfigError, match="rms_norm_eps is 1e-06 here and 1e-05 there; type model.rms_norm_eps=1e-05$"):
        require_same_model(
            open_source(
                str(tmp_path / "theirs"), configs.load([*SMALL, *THEIRS["Llama"][2], "model.rms_norm_eps=1e-6"])
            )
        )


def moved_out(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = next(iter(content["weight_map"].values()))
    shutil.move(folder / shard, folder.parent / shard)
    index.write_text(index.read_text().replace(shard, f"../{shard}"))


def pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def quantised(folder: Path) -> None:
    path = next(folder.glob("*.safetensors"))
    save_file({name: weight.to(torch.int8) for name, weight in load_file(path).items()}, path)


@pytest.mark.parametrize(
    "name, spoil, told",
    [
        ("Llama", pickled, "pytorch_model.bin is a pickle, .*type model.save_pretrained"),
        ("Llama", moved_out, "names '../model-0000.*', expected files of its own folder"),
        ("Llama", quantised, "holds values of type I8, expected F32"),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', expected silu"),
        ("Llama", {"attention_bias": True}, "attention_bias is True, expected False"),
        ("Llama", {"model_type": "mistral"}, "model_type is 'mistral', expected one of llama, qwen3, "),
        ("Llama", {"hidden_size": ...}, "hidden_size is missing, expected a whole number"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_type is 'dynamic', expected one of default"),
        ("Llama", {"rope_parameters": {"rope_type": "yarn", "attention_factor": 1.5}}, "rope_parameters.factor"),
        ("Llama", {"layer_types": 2}, "layer_types is 2, expected full_attention in every layer"),
        ("Qwen3, tied", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window is 64, expected none"),
        ("Qwen3, tied", {"rms_norm_eps": 1e-5}, "model.rms_norm_eps=1e-05 with attention.qk_norm: Qwen3"),
        ("DeepSeek-V3", {"first_k_dense_replace": 1}, "feed_forward is dense here and experts there; type feed_forw"),
        ("DeepSeek-V3", {"rope_interleave": False}, "rope_interleave is True here and False there"),
    ],
)
def test_what_would_be_another_model_is_refused_by_its_name(name, spoil, told, theirs, tmp_path):
    _, overrides = theirs(name)
    folder = tmp_path / "theirs"
    if callable(spoil):
        spoil(folder)
    else:
        changed(folder / "config.json", **spoil)
        overrides += [f"model.{key}={value}" for key, value in spoil.items() if key == "rms_norm_eps"]
    config = configs.load(overrides)
    with pytest.raises((ConfigError, DataError), match=f"^init_from={folder}: .*{told}"):
        require_same_model(open_source(str(folder), config))


def test_ids_that_mean_something_else_are_refused(theirs, tmp_path, prepared_data):
    _, overrides = theirs("Llama")
    ours = opened(configs.load([f"data_dir={prepared_data}"]).data.path).tokenizer
    source = open_source(str(tmp_path / "theirs"), configs.load(overrides))
    assert "taken on trust" in require_same_tokenizer(source, ours)[0]
    path = saved("Llama 2's", tmp_path / "theirs")
    with pytest.raises(
        ConfigError, match="mean other text there, as .*: type data.tokenizer=.*tokenizer.json data.path"
    ):
        require_same_tokenizer(source, ours)
    ours = open_tokenizer(path)
    assert require_same_tokenizer(source, ours) == []
    swapped = path.read_text().replace("<s>", "<x>").replace("</s>", "<s>").replace("<x>", "</s>")
    path.write_text(swapped)
    with pytest.raises(ConfigError, match="2 of the .* ids .*, as 1: b'<s>' here, b'</s>' there"):
        require_same_tokenizer(source, ours)


def test_a_launch_and_a_plan_say_what_the_run_would_be_refused_for(theirs, tmp_path, prepared_data):
    theirs("Llama")
    places = [f"data_dir={prepared_data}", f"runs_dir={tmp_path}", f"init_from={tmp_path / 'theirs'}"]
    config = configs.load([*SMALL[:-1], "attention=gqa", *places])
    (refused,) = Checks([member := Member([], [], config)]).of(member).refusals
    assert "its model is another: model.vocab_size is 4096 here and 199 there" in str(refused)
    assert f"warning: {refused}" in plan_of(config)["notes"]


def test_weights_that_give_no_loss_are_refused_by_the_name_of_their_source():
    state = SimpleNamespace(init_from={"source": "runs/diverged"})
    with pytest.raises(DataError, match="init_from=runs/diverged: the held-out loss with its weights is nan"):
        loss_to_begin_with(None, lambda engine: {"val/loss": float("nan")}, state, None)
