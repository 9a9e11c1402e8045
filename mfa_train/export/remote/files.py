"""modeling_mfa_train.py and configuration_mfa_train.py of an attention and a feed-forward.

They are a function of the two names and this project's sources: nothing of a config is written into them.
"""

import functools
from importlib.metadata import version

from mfa_train.attention import attention_class
from mfa_train.export.remote.bundle import Place, bundle, source
from mfa_train.feed_forward import feed_forward_class

CODE = "mfa_train.export.remote.code"
ATTENTION = "mfa_train.attention"
CONFIGURATION = "configuration_mfa_train"
MODELING = "modeling_mfa_train"
AUTO_MAP = {
    "AutoConfig": f"{CONFIGURATION}.MfaTrainConfig",
    "AutoModel": f"{MODELING}.MfaTrainModel",
    "AutoModelForCausalLM": f"{MODELING}.MfaTrainForCausalLM",
}
INSTEAD: dict[Place, Place | str] = {
    Place(ATTENTION, "attention_class"): Place(f"{CODE}.variant", "attention_class"),
    Place("mfa_train.feed_forward", "feed_forward_of"): Place(f"{CODE}.variant", "feed_forward_of"),
    Place(f"{ATTENTION}.kernels.causal", "choose_kernel"): Place(f"{CODE}.kernels", "choose_kernel"),
    Place(f"{ATTENTION}.kernels.causal", "causal_attention"): Place(f"{CODE}.kernels", "causal_attention"),
    Place(f"{ATTENTION}.kernels.decoding", "decoding_attention"): Place(
        f"{ATTENTION}.kernels.plain", "decoding_attention"
    ),
    Place("mfa_train.config", "ModelConfig"): Place(f"{CODE}.{CONFIGURATION}", "MfaTrainConfig"),
    Place("mfa_train.errors", "ConfigError"): "ValueError",
}
"""What would bring the trainer's kernels, its configs and its other variants along."""


MADE = """Generated from the sources of mfa_train, each part under the name of its file there: change it there.
It needs torch and transformers alone.
"""
LICENCE = """# Copyright the authors of mfa_train. Licensed under the Apache License, Version 2.0
# (http://www.apache.org/licenses/LICENSE-2.0), distributed "as is", without warranties or conditions of any kind.
"""


@functools.cache
def remote_files(attention: str, feed_forward: str = "dense") -> dict[str, bytes]:
    """By name. Raises ConfigError where there is no such attention or feed-forward, CannotTravel where its module can't
    be bundled."""
    chosen = {"Variant": attention_class(attention), "Kind": feed_forward_class(feed_forward)}
    instead = INSTEAD | {
        Place(f"{CODE}.variant", name): Place(kind.__module__, kind.__name__) for name, kind in chosen.items()
    }
    beside = {f"{CODE}.{CONFIGURATION}": CONFIGURATION}
    roots = [f"{CODE}.{name}" for name in ("variant", "kernels", "cache", "rows", "modeling")]
    # In both files, so that no two kinds share a configuration: transformers remembers one model for each.
    says = (
        f"A decoder with attention={attention} and feed_forward={feed_forward} as it was trained by mfa_train "
        f"{version('mfa-train')}, for transformers."
    )
    parts = {CONFIGURATION: source(f"{CODE}.{CONFIGURATION}"), MODELING: bundle(roots, instead, beside)}
    return {f"{name}.py": f'{LICENCE}"""{says}\n\n{MADE}"""\n\n{text}'.encode() for name, text in parts.items()}
