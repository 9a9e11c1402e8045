"""A stage of training.sequence_schedule turns positions as a model does that was built with its keys."""

import dataclasses

import pytest
import torch

from mfa_train.config.sequence_schema import StageConfig
from mfa_train.training.steps.stages import Stages
from tests.conftest import VARIANTS, small_config

LLAMA3 = "attention.rope_scaling={rope_type: llama3, factor: 4.0, original_max_position_embeddings: 8}"


@pytest.mark.parametrize("attention", VARIANTS)
def test_the_model_of_a_stage_is_one_built_with_its_rotations_and_the_last_is_the_configs_own(attention, small_model):
    model, tokens = small_model(attention, LLAMA3), torch.randint(0, 199, (2, 24))
    shorter = small_model(attention, "attention.rope_theta=500")
    config = small_config(attention, (LLAMA3,))
    schedule = [StageConfig(0, 8, 500.0, "none"), StageConfig(1000, 24)]
    training = dataclasses.replace(config.training, batch_size=8, sequence_length=24, sequence_schedule=schedule)
    told: list[str] = []
    stages = Stages(dataclasses.replace(config, training=training), model.model, told.append)
    own = model(tokens)
    logits = {}
    for step in (5, 6, 2):  # the last of the first stage, the first of the second; and a run that went back
        stages.enter(step)
        logits[step] = model(tokens)
    assert torch.equal(logits[6], own)
    assert torch.equal(logits[5], shorter(tokens)) and torch.equal(logits[2], logits[5])
    assert not torch.equal(logits[5], own)
    first = "sequences of 8 tokens, rope_theta=500.0, rope_scaling=none from step 1 on, behind 0 tokens"
    assert told == [first, "sequences of 24 tokens from step 7 on, behind 1,152 tokens", first]
