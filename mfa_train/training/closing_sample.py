"""Text from a model, as a run closes and as `mfa-train generate` prints it."""

from pathlib import Path

import torch

from mfa_train.config import Config, SampleConfig
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import ConfigError, UserError
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import generate
from mfa_train.training.checkpoints.final_weights import final_tokenizer, load_weights, read_weights
from mfa_train.training.run_folder.folder import final_checkpoint
from mfa_train.training.steps.engine import build_model


def sample_text(
    config: SampleConfig, seed: int, model: LanguageModel, tokenizer: Tokenizer, device: torch.device
) -> str:
    """The prompt, as the start of a document, and what the model makes of it. Ids that are no token of the tokenizer (a
    model's vocabulary may be larger) are never drawn. Raises ConfigError for a prompt that is no text, DataError for a
    model that gives no probabilities."""
    try:
        config.prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"sample.prompt={config.prompt!a}: character {error.start + 1} is half of a surrogate pair, no text; "
            "type it in UTF-8"
        ) from error
    prompt = torch.tensor([[tokenizer.eos_id, *tokenizer.encode([config.prompt])[0].tolist()]], device=device)
    tokens = generate(
        model,
        prompt,
        config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=seed,
        eos_id=tokenizer.eos_id,
        known=torch.from_numpy(tokenizer.known).to(device),
    )
    return tokenizer.decode(tokens[0, 1:].tolist())


def closing_sample(config: Config, model: LanguageModel, tokenizer: Tokenizer, device: torch.device) -> str:
    """`sample_text` as a paragraph, where a run closes and asks for one; the run is whole without it."""
    if not config.sample.max_new_tokens:
        return ""
    try:
        text = sample_text(config.sample, config.seed, model, tokenizer, device)
    except UserError as error:
        text = f"(none: {error})"
    return f"A sample:\n\n{text}\n\n"


def sample_from_run(config: Config, folder: Path) -> str:
    """Text from the final weights of the run in `folder`. Raises DataError where it has none."""
    final = final_checkpoint(folder)
    weights, tokenizer = read_weights(final), final_tokenizer(final, config.data.eos_token)
    model = build_model(config)
    load_weights(model, weights, final)
    return sample_text(config.sample, config.seed, model, tokenizer, torch.device("cpu"))
