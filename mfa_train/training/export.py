"""A run's weights for other tools: model.safetensors, config.json and the tokenizer, as `transformers` loads them.

mha, gqa, mqa   Llama; with attention.qk_norm Qwen3
mla             DeepSeek-V3 with dense layers alone; attention.latent_scale goes into the norms' weights
the others      no class of transformers computes these: the same files under the same names, and a config.json of
                our own keys, for who brings the class. So too with an attention.output_gate
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Protocol, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mfa_train import config as configs
from mfa_train.attention import AttentionConfig, attention_config
from mfa_train.attention.latent import LatentConfig, LatentNorm
from mfa_train.config import Config
from mfa_train.data.tokenizer.exported import as_file, tokenizer_files
from mfa_train.errors import ConfigError
from mfa_train.model.decoder import LanguageModel
from mfa_train.training.checkpoints.final_weights import FILE, final_tokenizer, read_weights, require_weights_of
from mfa_train.training.run_folder.folder import final_checkpoint


class LlamaLike(Protocol):
    """What a config of mha, gqa or mqa has beside the keys of every attention."""

    @property
    def head_dim(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...


def is_llama_like(attention: AttentionConfig) -> TypeGuard[LlamaLike]:
    return attention.name in ("mha", "gqa", "mqa")


def is_mla(attention: AttentionConfig) -> TypeGuard[LatentConfig]:
    return attention.name == "mla"


def export(run: Path, out: Path) -> str:
    """Writes the folder `out`, whole or not at all, and gives the lines that say what can load it.

    Raises DataError where the run has no final weights, ConfigError where `out` is there or can't be written, or
    transformers cannot say it.
    """
    if os.path.lexists(out):
        raise ConfigError(f"--out={out} is there already; type --out=FOLDER with another, or remove it")
    config, final = configs.of_run(run), final_checkpoint(run)
    attention = attention_config(config.attention)
    settings = transformers_config(config, attention)
    weights, tokenizer = read_weights(final), final_tokenizer(final, config.data.eos_token)
    with torch.device("meta"):
        require_weights_of(model := LanguageModel(config.model, attention), weights, final)
    if "architectures" in settings:
        if attention.rope_interleave and is_llama_like(attention):
            weights = {name: _in_halves(name, weight, attention.head_dim) for name, weight in weights.items()}
        weights |= _with_latent_scales(model, weights)
    settings |= {
        "dtype": str(next(iter(weights.values())).dtype).removeprefix("torch."),
        # In training each document stands behind the separator that ends the one before.
        "bos_token_id": tokenizer.eos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    files, said = tokenizer_files(tokenizer, config.model.max_position_embeddings)
    files |= {"config.json": as_file(settings)}
    if never := [
        token for token in range(config.model.vocab_size) if token >= len(tokenizer.known) or not tokenizer.known[token]
    ]:
        files |= {
            "generation_config.json": as_file(
                {"bos_token_id": tokenizer.eos_id, "eos_token_id": tokenizer.eos_id, "suppress_tokens": never}
            )
        }
    _write(out, weights, files)
    if "architectures" in settings:
        line = f"{out}: loads in transformers as {settings['architectures'][0]}"
    else:
        gate = "" if attention.output_gate == "none" else f" with attention.output_gate={attention.output_gate}"
        line = (
            f"{out}: weights, config and tokenizer; transformers has no class for attention={attention.name}{gate}, so "
            "AutoModelForCausalLM cannot load it"
        )
    if never:
        line += f"\nids that are no token ({len(never):,}, as {never[0]}) are kept from being drawn"
        line += " by generation_config.json"
    return f"{line}\n{said}" if said else line


def _write(out: Path, weights: dict[str, torch.Tensor], files: dict[str, bytes]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            made = Path(beside) / "export"
            made.mkdir()
            save_file(weights, made / FILE, metadata={"format": "pt"})
            for name, content in files.items():
                (made / name).write_bytes(content)
            made.rename(out)
    except (OSError, SafetensorError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--out={out}: cannot be written ({reason}); type --out=FOLDER with one that can") from error


def transformers_config(config: Config, attention: AttentionConfig) -> dict:
    """config.json, without what the weights and the tokenizer tell. Raises ConfigError for what transformers cannot
    say."""
    model, qk_norm = config.model, attention.qk_norm
    common = {
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_hidden_layers,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "rms_norm_eps": model.rms_norm_eps,
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "num_attention_heads": attention.num_attention_heads,
        "rope_parameters": _rope(attention),
    }
    ours = common | {"model_type": f"mfa_train_{attention.name}", "attention": dataclasses.asdict(attention)}
    if attention.output_gate != "none":
        return ours
    if is_llama_like(attention):
        if qk_norm and model.rms_norm_eps != 1e-6:
            raise ConfigError(
                f"model.rms_norm_eps={model.rms_norm_eps} with attention.qk_norm: Qwen3 has one eps for all "
                "norms, and those of heads have 1e-6 here; a model with rms_norm_eps=1e-6 can be exported"
            )
        kind, architecture = ("qwen3", "Qwen3ForCausalLM") if qk_norm else ("llama", "LlamaForCausalLM")
        return common | {
            "model_type": kind,
            "architectures": [architecture],
            "head_dim": attention.head_dim,
            "num_key_value_heads": attention.num_key_value_heads,
            "mlp_bias": False,
        }
    if is_mla(attention):
        if qk_norm:
            raise ConfigError(
                "attention.qk_norm=true with attention=mla: DeepSeek-V3 has no such norms, so it cannot be exported"
            )
        if attention.latent_norm_eps != 1e-6:
            raise ConfigError(
                f"attention.latent_norm_eps={attention.latent_norm_eps} with attention=mla: DeepSeek-V3's norms of "
                "latents have 1e-6 in transformers, so it cannot be exported"
            )
        dimensions = {
            key: getattr(attention, key)
            for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        }
        return (
            common
            | dimensions
            | {
                "model_type": "deepseek_v3",
                "architectures": ["DeepseekV3ForCausalLM"],
                "num_key_value_heads": attention.num_attention_heads,
                "rope_interleave": attention.rope_interleave,
                "first_k_dense_replace": model.num_hidden_layers,  # no layer is a mixture of experts
            }
        )
    return ours


def _rope(attention: AttentionConfig) -> dict:
    scaling = dataclasses.asdict(attention.rope_scaling) if attention.rope_scaling else {"rope_type": "default"}
    used = {
        "default": (),
        "linear": ("factor",),
        "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow"),
        "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    }
    kind = scaling["rope_type"]
    return {"rope_type": kind, "rope_theta": attention.rope_theta, **{key: scaling[key] for key in used[kind]}}


def _with_latent_scales(model: LanguageModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of latents' norms, times the scale behind them."""
    norms = ((f"{name}.weight", module) for name, module in model.named_modules() if isinstance(module, LatentNorm))
    return {name: weights[name] * norm.factor for name, norm in norms if norm.factor != 1}


def _in_halves(name: str, weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of query and key projections reordered within each head, from pairs side by side to Llama's halves."""
    if not name.endswith(("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")):
        return weight
    by_pair = weight.unflatten(0, (-1, head_dim // 2, 2))
    return by_pair.transpose(1, 2).flatten(0, 2).contiguous()
