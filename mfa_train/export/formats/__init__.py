"""The forms, one file each; `base.py` says what a form is.

llama.py         mha gqa mqa: LlamaForCausalLM, with attention.qk_norm Qwen3ForCausalLM
qwen3_moe.py     the same with experts: MixtralForCausalLM, with attention.qk_norm Qwen3MoeForCausalLM
deepseek_v3.py   mla, dense or with experts: DeepseekV3ForCausalLM
step3.py         mfa, dense or with experts: Step3TextForCausalLM, which vLLM has; for transformers as REMOTE
remote.py        every attention: our names and keys, with the code that reads them
mixtures.py      what forms of others say of a mixture of experts
config_json.py   a config.json that is read, whoever wrote it
"""

from mfa_train.export.formats.base import Format, FormatCannotSay, type_name
from mfa_train.export.formats.config_json import ConfigJson
from mfa_train.export.formats.deepseek_v3 import DeepseekV3
from mfa_train.export.formats.llama import Llama
from mfa_train.export.formats.qwen3_moe import Qwen3Moe
from mfa_train.export.formats.remote import Remote
from mfa_train.export.formats.step3 import Step3

__all__ = ["NATIVE", "REMOTE", "ConfigJson", "Format", "FormatCannotSay", "form_of", "type_name"]

NATIVE: tuple[type[Format], ...] = (Llama, Qwen3Moe, DeepseekV3, Step3)
"""Forms of others, of which each attention with its feed-forward has one at most."""
REMOTE: type[Format] = Remote
"""What every attention has."""


def form_of(settings: ConfigJson) -> type[Format]:
    """The form that a config.json is of. Raises ConfigError."""
    if settings.is_ours:
        return REMOTE
    for form in NATIVE:
        if settings.content.get("model_type") in form.model_types:
            return form
    known = [name for form in NATIVE for name in form.model_types]
    raise settings.refused("model_type", f"one of {', '.join(known)}, or what mfa-train export wrote")
