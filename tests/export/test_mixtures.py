"""Mixtures of experts in the forms of others: the same logits, the same keys back, and what a form lacks refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from mfa_train import config as configs
from mfa_train.checkpoints.weights import shapes_of
from mfa_train.errors import ConfigError
from mfa_train.export.export import chosen_format
from mfa_train.export.formats import ConfigJson, FormatCannotSay, form_of
from mfa_train.export.formats.step3 import Step3
from mfa_train.model.generation import generate
from mfa_train.training.init_from.same_model import require_same_model
from mfa_train.training.init_from.source import open_source
from tests.conftest import small_config
from tests.export.remote_folders import loaded, written
from tests.training.test_init_from import filled

EXPERTS = (
    *("feed_forward=experts", "model.feed_forward.n_routed_experts=8", "model.feed_forward.num_experts_per_tok=3"),
    "model.feed_forward.moe_intermediate_size=24",
)
DEEPSEEK = tuple(
    f"model.feed_forward.{key}"
    for key in ("scoring_func=sigmoid", "n_group=4", "topk_group=2", "routed_scaling_factor=2.5", "n_shared_experts=2")
)
ONE_DENSE = "model.feed_forward.first_k_dense_replace=1"
ALONE = "model.feed_forward.n_shared_experts=0"
BIASED = "model.feed_forward.bias_update_speed=0.01"
FORMS = {
    "DeepseekV3ForCausalLM": ("mla", (*DEEPSEEK, BIASED, ONE_DENSE)),
    "DeepseekV3ForCausalLM without a bias": ("mla", (*DEEPSEEK, "model.feed_forward.norm_topk_prob=false")),
    "Qwen3MoeForCausalLM": ("gqa", (ALONE, ONE_DENSE, "attention.qk_norm=true")),
    "MixtralForCausalLM": ("mha", (ALONE, "attention.rope_interleave=true")),
    "MfaTrainForCausalLM as Step-3": ("mfa", (ONE_DENSE, "attention.rope_interleave=true")),
    "MfaTrainForCausalLM": ("mfa_kr", (*DEEPSEEK, BIASED)),
}


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A model of ours, and a folder with it in the form that it has."""
    attention, overrides = FORMS[request.param]
    config = small_config(attention, EXPERTS + overrides)
    form, _ = chosen_format(config, "auto")
    assert form.loads == request.param.split()[0]
    made = tmp_path_factory.mktemp("mixture") / "out"
    ours = written(made, attention, *EXPERTS, *overrides, form=type(form))
    return ours, config, form, made


@pytest.mark.parametrize("folder", FORMS, indirect=True)
def test_a_mixture_is_the_same_in_transformers_and_read_back(folder):
    ours, config, form, made = folder
    x = torch.randint(1, 199, (2, 24), generator=torch.Generator().manual_seed(0))
    theirs = loaded(made, trust_remote_code=form.remote_code)
    assert type(theirs).__name__ == form.loads
    with torch.no_grad():
        expected = ours(x)
        torch.testing.assert_close(theirs(input_ids=x).logits, expected, rtol=0, atol=2e-5)
    new = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert theirs.generate(x[:1, :9], **new).tolist() == generate(ours, x[:1, :9], 5, temperature=0.0).tolist()

    settings = ConfigJson(json.loads((made / "config.json").read_text()))
    assert form_of(settings).has(config)
    source = open_source(str(made), config)
    assert require_same_model(source) == []
    with torch.no_grad():
        torch.testing.assert_close(filled(config, source)(x), expected, rtol=0, atol=2e-5)
    start = [f"attention={config.attention['name']}"]
    with pytest.raises(ConfigError, match="feed_forward is dense here and experts there") as refused:
        require_same_model(open_source(str(made), configs.load(start)))
    typed = str(refused.value).partition("; type ")[2].split()
    require_same_model(open_source(str(made), configs.load([*start, *typed])))


@pytest.mark.parametrize("folder", ["MfaTrainForCausalLM as Step-3", "MfaTrainForCausalLM"], indirect=True)
def test_our_code_saves_a_mixture_under_the_names_it_had_and_keeps_its_bias_exact(folder, tmp_path):
    theirs = loaded(made := folder[-1], dtype=torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (made, tmp_path))
    assert before.keys() == after.keys()
    for name, weight in after.items():
        held = torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16
        assert weight.equal(before[name].to(held)), name


def test_step3_has_vllms_names_of_experts():
    """As `Step3TextModel.load_weights` of vLLM 0.32 reads them: of each layer's experts one weight for each matrix."""
    form = Step3(small_config("mfa", (*EXPERTS, ONE_DENSE)))
    shapes = form.shapes(shapes_of(form.config))
    layer = "model.layers.1."
    found = {name.removeprefix(layer): shape for name, shape in shapes.items() if name.startswith(layer)}
    assert {name: shape for name, shape in found.items() if "expert" in name or "moe" in name} == {
        "moe.gate.weight": (8, 64),
        "moe.gate_proj.weight": (8, 24, 64),
        "moe.up_proj.weight": (8, 24, 64),
        "moe.down_proj.weight": (8, 64, 24),
        "share_expert.gate_proj.weight": (24, 64),
        "share_expert.up_proj.weight": (24, 64),
        "share_expert.down_proj.weight": (64, 24),
    }
    assert "model.layers.0.mlp.up_proj.weight" in shapes and not any(name.startswith("mlp") for name in found)
    assert {key: form.settings()[key] for key in ("moe_layers_enum", "moe_top_k", "norm_expert_weight")} == {
        "moe_layers_enum": "1",
        "moe_top_k": 3,
        "norm_expert_weight": True,
    }


@pytest.mark.parametrize(
    "attention, overrides, told",
    [
        ("mfa", ["scoring_func=sigmoid"], "scoring_func=sigmoid: Step3TextForCausalLM has a softmax router"),
        ("mfa", ["n_group=2"], "n_group=2: Step3TextForCausalLM has no groups of experts"),
        ("mfa", ["routed_scaling_factor=2.5"], "routed_scaling_factor=2.5: Step3TextForCausalLM has no factor"),
        ("mfa", ["bias_update_speed=0.1"], "bias_update_speed=0.1: Step3TextForCausalLM has no bias in its router"),
        ("mfa", ["n_shared_experts=0"], "n_shared_experts=0: Step3TextForCausalLM always has a shared expert"),
        ("mfa", ["capacity_factor=1.25"], "capacity_factor=1.25: Step3TextForCausalLM has no capacity"),
        ("gqa", [], "n_shared_experts=1: MixtralForCausalLM has no shared experts"),
        ("gqa", ["n_shared_experts=0", "norm_topk_prob=false"], "norm_topk_prob=False: MixtralForCausalLM has weights"),
        (
            "gqa",
            ["n_shared_experts=0", "first_k_dense_replace=1"],
            "first_k_dense_replace=1: MixtralForCausalLM has ex",
        ),
        ("mla", [], "scoring_func=softmax: DeepseekV3ForCausalLM has a sigmoid router"),
        ("mla", ["scoring_func=sigmoid", "n_shared_experts=0"], "n_shared_experts=0: DeepseekV3ForCausalLM always"),
        ("mla", ["scoring_func=sigmoid", "n_group=8", "topk_group=4"], "n_group=8: DeepseekV3ForCausalLM has two exp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_form_cannot_say_of_a_mixture_is_refused_by_its_key(attention, overrides, told):
    config = small_config(attention, (*EXPERTS, *(f"model.feed_forward.{override}" for override in overrides)))
    with pytest.raises(FormatCannotSay, match=f"^model.feed_forward.{re.escape(told)}.*: type --format remote$"):
        chosen_format(config, "auto")


@pytest.mark.parametrize(
    "folder, key, value, told",
    [
        ("MixtralForCausalLM", "num_local_experts", "many", "num_local_experts is 'many', expected a whole number"),
        ("Qwen3MoeForCausalLM", "mlp_only_layers", [1], "mlp_only_layers is [1], expected the first layers"),
        ("DeepseekV3ForCausalLM", "scoring_func", "softmax", "scoring_func is 'softmax', expected sigmoid"),
        ("MfaTrainForCausalLM as Step-3", "moe_layers_enum", "0", "moe_layers_enum is '0', expected -1, or the model"),
        ("MfaTrainForCausalLM as Step-3", "share_expert_dim", 25, "share_expert_dim is 25, expected a multiple of"),
        ("MfaTrainForCausalLM", "feed_forward", {"name": 3}, "feed_forward is"),
    ],
    indirect=["folder"],
)
def test_a_mixture_that_no_model_here_is_is_refused_by_its_key(folder, key, value, told):
    settings = json.loads((folder[-1] / "config.json").read_text()) | {key: value}
    with pytest.raises(ConfigError, match=f"^config.json: {re.escape(told)}"):
        form_of(ConfigJson(settings)).overrides(ConfigJson(settings))
