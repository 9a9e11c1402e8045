"""mfa as Step-3's text model. tests/serving holds vLLM itself to it; here its layers are transformers' Llama layers
with one key head, whose query is made as in vLLM's Step3TextAttention."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mfa_train import config as configs
from mfa_train.checkpoints.weights import shapes_of
from mfa_train.data.tokenizer.exported import as_file
from mfa_train.errors import ConfigError
from mfa_train.export.formats import ConfigJson, FormatCannotSay
from mfa_train.export.formats.step3 import Step3, rank_that_loads
from tests.conftest import SMALL

SOLVED = [
    *("attention.head_dim=8", "attention.q_lora_rank=62", "attention.latent_scale=true"),
    *("attention.latent_norm_eps=0.3", "attention.rope_interleave=true", "model.tie_word_embeddings=true"),
    "attention.rope_scaling={rope_type: linear, factor: 4.0}",
]
"""All that the form makes good at once; an eps of that size shows. 62 rows are cut wrongly beside 8."""
QUERY = {"q_proj": "q_proj.0", "inter_norm": "q_proj.1", "wq": "q_proj.2"}


def step3_text(config: dict, weights: dict[str, Tensor]) -> nn.Module:
    """The model of a config.json and weights, all of which are taken and no others."""
    model = LlamaForCausalLM(LlamaConfig(**config | {"model_type": "llama"})).eval()
    rank, eps = config["share_q_dim"], config["rms_norm_eps"]
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        attention.q_proj = nn.Sequential(
            nn.Linear(config["hidden_size"], rank, bias=False),
            nn.RMSNorm(rank, eps=eps),
            nn.Linear(rank, config["num_attention_heads"] * config["head_dim"], bias=False),
        )
        for name, there in QUERY.items():
            before = f"model.layers.{number}.self_attn"
            weights[f"{before}.{there}.weight"] = weights.pop(f"{before}.{name}.weight")
    model.load_state_dict(weights, strict=True)
    return model


@pytest.mark.parametrize("overrides", [[], SOLVED], ids=["default", "solved"])
def test_one_folder_gives_the_same_logits_as_step3_text_and_by_remote_code(overrides, small_model, tmp_path):
    ours = small_model("mfa", *overrides, std=0.05)
    form = Step3(configs.load(["attention=mfa", *SMALL, *overrides]))
    weights = dict(ours.named_parameters())
    sources = form.sources({name: tuple(weight.shape) for name, weight in weights.items()})
    weights = {name: form.there(name, weights[own]).detach().clone() for name, own in sources.items()}
    for name, content in (form.files() | {"config.json": as_file(form.settings() | {"dtype": "float32"})}).items():
        (tmp_path / name).write_bytes(content)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    in_vllm = step3_text(form.settings(), weights)
    in_transformers = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    x = torch.randint(0, 199, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for theirs in (in_vllm, in_transformers):
            assert (ours(x) - theirs(input_ids=x).logits).abs().max().item() < 1e-5


def test_a_weight_goes_there_and_back():
    config = configs.load(["attention=mfa", *SMALL, *SOLVED])
    form, shapes = Step3(config), shapes_of(config)
    for name, ours in form.sources(shapes).items():
        weight = torch.randn(shapes[ours], generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(form.here(name, form.there(name, weight)), weight, rtol=1e-6, atol=0)


def test_what_is_scaled_is_rounded_once():
    config = configs.load(["attention=mfa", *SMALL, *SOLVED])
    form, shapes = Step3(config), shapes_of(config)
    for name, ours in form.sources(shapes).items():
        held = torch.randn(shapes[ours], generator=torch.Generator().manual_seed(0)).bfloat16()
        assert form.there(name, held).equal(form.there(name, held.float()).bfloat16())


def test_a_config_json_of_step3_is_read_as_the_model_that_it_is():
    form = Step3(configs.load(["attention=mfa", *SMALL, *SOLVED]))
    keys = Step3.overrides(ConfigJson(form.settings()))
    words = [f"{key}={'null' if value is None else value}" for key, value in keys.items()]
    again = Step3(configs.load([word for word in words if "rope_scaling" not in word] + [SOLVED[-1]]))
    assert again.settings() == form.settings()
    with pytest.raises(ConfigError, match="moe_layers_enum"):
        Step3.overrides(ConfigJson(form.settings() | {"moe_layers_enum": "0"}))


def test_ranks_are_the_next_that_vllm_cuts_right():
    assert [rank_that_loads(width, width) for width in range(8, 513, 8)] == [*range(8, 513, 8)]
    assert (rank_that_loads(2048, 256), rank_that_loads(208, 256), rank_that_loads(496, 128)) == (2048, 216, 512)
    for rank, head_dim in ((62, 8), (208, 256), (496, 128), (504, 24)):
        loaded = rank_that_loads(rank, head_dim)
        # As Step3TextModel.load_weights has it: fractions of all rows.
        rows = loaded + head_dim * 2
        cuts = [int(part / rows * rows) for part in (loaded, loaded + head_dim, rows)]
        assert loaded > rank and cuts == [loaded, loaded + head_dim, rows]


@pytest.mark.parametrize(
    "override",
    [
        "attention.q_lora_rank=null",
        "attention.inter_norm=false",
        "attention.qk_norm=true",
        "attention.output_gate=head",
        "attention.rope_scaling={rope_type: llama3, factor: 4.0, original_max_position_embeddings: 64}",
    ],
)
def test_what_step3_cannot_say_is_refused_by_its_key(override):
    with pytest.raises(FormatCannotSay, match=f"^{override.split('=')[0]}.*Step3TextForCausalLM"):
        Step3(configs.load(["attention=mfa", *SMALL, override])).settings()
