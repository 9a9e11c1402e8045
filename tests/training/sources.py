"""What weights that a run begins with are, and the model that has them."""

from mfa_train.attention import attention_config
from mfa_train.model.decoder import LanguageModel, weights_of_model


def record_of(source) -> dict:
    """As three ranks make it."""
    shares = [source.sums(slice(rank, None, 3)) for rank in range(3)]
    return source.record({name: summed for sums in shares for name, summed in sums.items()})


def filled(config, source) -> LanguageModel:
    """Our model with the source's weights, each read in two parts, and these in several."""
    model = LanguageModel(config.model, attention_config(config.attention))
    for name, weight in weights_of_model(model).items():
        flat = weight.data.view(-1)
        cut = len(flat) * 3 // 7
        source.read(name, 0, flat[:cut])
        source.read(name, cut, flat[cut:])
    return model.eval()
