"""The forms, one file each; `base.py` says what a form is.

llama.py         mha gqa mqa: LlamaForCausalLM, with attention.qk_norm Qwen3ForCausalLM
deepseek_v3.py   mla: DeepseekV3ForCausalLM with dense layers alone
own.py           every attention: our names and keys
"""

from mfa_train.export.formats.base import Format, FormatCannotSay, type_name
from mfa_train.export.formats.deepseek_v3 import DeepseekV3
from mfa_train.export.formats.llama import Llama
from mfa_train.export.formats.own import Own

__all__ = ["NATIVE", "REMOTE", "Format", "FormatCannotSay", "type_name"]

NATIVE: tuple[type[Format], ...] = (Llama, DeepseekV3)
"""Forms of others, of which each attention has one at most."""
REMOTE: type[Format] = Own
"""What every attention has."""
