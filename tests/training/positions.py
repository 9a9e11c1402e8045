"""Builds the model of OVERRIDES in bf16, by DeepSpeed: `positions.py OVERRIDE…`. Exits 0 where its parameters are bf16,
and its positions' frequencies float32 and those of a model that is built by itself.
"""

import sys

import torch

from mfa_train import config as configs
from mfa_train.attention.rope import inverse_frequencies
from mfa_train.training.processes.ranks import join
from mfa_train.training.steps.engine import build_engine

engine = build_engine(configs.load(sys.argv[1:]), join(), torch.bfloat16)
assert all(parameter.dtype == torch.bfloat16 for parameter in engine.module.parameters())
found, expected = engine.module.model.rope.inverse_frequencies, inverse_frequencies(32, 10000.0, None)
assert found.dtype == torch.float32 and torch.equal(found, expected), found
