"""The forms, one file each; `base.py` says what a form is.

llama.py         mha gqa mqa: LlamaForCausalLM, with attention.qk_norm Qwen3ForCausalLM
deepseek_v3.py   mla: DeepseekV3ForCausalLM with dense layers alone
step3.py         mfa: vLLM's Step3TextForCausalLM
own.py           every attention: our names and keys
"""

from mfa_train.export.formats.base import Format, FormatCannotSay
from mfa_train.export.formats.deepseek_v3 import DeepseekV3
from mfa_train.export.formats.llama import Llama
from mfa_train.export.formats.own import Own
from mfa_train.export.formats.step3 import Step3

__all__ = ["NATIVE", "Format", "FormatCannotSay", "Own"]

NATIVE: tuple[type[Format], ...] = (Llama, DeepseekV3, Step3)
"""Forms of others, of which each attention has one at most."""
