"""A model filled with a run's weights."""

import torch

from mfa_train.attention import attention_config
from mfa_train.checkpoints.weights import RunWeights
from mfa_train.model.decoder import LanguageModel, weights_of_model


def model_of(weights: RunWeights) -> LanguageModel:
    """The run's model with these weights, in float32 on the CPU. Raises DataError."""
    config = weights.config
    model = LanguageModel(config.model, attention_config(config.attention), config.training.z_loss)
    with torch.no_grad():
        for name, weight in weights_of_model(model).items():
            weights.read_parameter(name, 0, weight.view(-1))
    return model
