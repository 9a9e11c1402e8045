"""The model inside DeepSpeed: the same path for one process on a laptop and for ZeRO 3 on many nodes."""

import contextlib
import logging

import torch

from mfa_train.attention import attention_config
from mfa_train.config import Config
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.initialization import initialize
from mfa_train.training.ranks import Ranks


def resolve_precision(precision: str) -> torch.dtype:
    """What `precision` means on this machine. auto: bfloat16 where the hardware multiplies it natively."""
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def build_model(config: Config, gather=lambda parameter: contextlib.nullcontext()) -> LanguageModel:
    """The config's model with its initial weights, in float32 on the CPU."""
    model = LanguageModel(config.model, attention_config(config.attention), config.training.z_loss)
    initialize(model, config.model.initialization, config.seed, config.model.num_hidden_layers, gather)
    return model


def build_engine(config: Config, ranks: Ranks, dtype: torch.dtype):
    """A DeepSpeedEngine around the model and AdamW. Its learning rate is the caller's to set before each step."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    settings = deepspeed_config(config, ranks, dtype)
    if config.zero == 3:
        with deepspeed.zero.Init(config_dict_or_path=settings):
            model = build_model(config, lambda parameter: deepspeed.zero.GatheredParameters(parameter, modifier_rank=0))
    else:
        model = build_model(config)
    model.model.activation_checkpointing = config.training.activation_checkpointing
    if config.training.compile:
        for layer in model.model.layers:
            layer.compile()
    engine, *_ = deepspeed.initialize(model=model, optimizer=make_optimizer(model, config), config=settings,
                                      dist_init_required=False)
    return engine


def make_optimizer(model: torch.nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101). Matrices are decayed, vectors (norms, gates) are not."""
    parameters = list(model.parameters())
    # Under ZeRO 3 a parameter's own shape is that of this rank's shard.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    vectors = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [{"params": matrices, "weight_decay": config.optimizer.weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.optimizer.lr, betas=tuple(config.optimizer.betas),
                             eps=config.optimizer.eps, fused=True)


def deepspeed_config(config: Config, ranks: Ranks, dtype: torch.dtype) -> dict:
    """DeepSpeed's own JSON for this run."""
    micro_batch = config.training.micro_batch(ranks.world_size)
    zero = {"stage": config.zero}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": config.training.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_clipping": config.training.gradient_clipping,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
