"""A model filled with a run's weights."""

import torch

from mfa_train.attention import attention_config
from mfa_train.checkpoints.weights import RunWeights
from mfa_train.model.decoder import LanguageModel


def model_of(weights: RunWeights) -> LanguageModel:
    """The run's model with these weights, in float32 on the CPU. Raises DataError."""
    config = weights.config
    model = LanguageModel(config.model, attention_config(config.attention), config.training.z_loss)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.tensor(name))
    return model
