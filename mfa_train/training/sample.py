"""Text from a model, as a run closes and as `mfa-train generate` prints it."""

from pathlib import Path

import torch
from safetensors import SafetensorError

from mfa_train.config import Config, SampleConfig
from mfa_train.data.tokenizer import Tokenizer, open_tokenizer
from mfa_train.errors import DataError
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.generation import generate
from mfa_train.training.engine import build_model
from mfa_train.training.run_folder import final_checkpoint
from mfa_train.training.weights import load_weights


def sample_text(config: SampleConfig, seed: int, model: LanguageModel, tokenizer: Tokenizer,
                device: torch.device) -> str:
    """The prompt, as the start of a document, and what the model makes of it."""
    prompt = torch.tensor([[tokenizer.eos_id, *tokenizer.encode([config.prompt])[0]]], device=device)
    tokens = generate(model, prompt, config.max_new_tokens, temperature=config.temperature, top_k=config.top_k,
                      top_p=config.top_p, seed=seed, eos_id=tokenizer.eos_id)
    return tokenizer.decode(tokens[0, 1:].tolist())


def sample_from_run(config: Config, folder: Path) -> str:
    """Text from the final weights of the run in `folder`. Raises DataError where it has none."""
    final = final_checkpoint(folder)
    if not final.is_dir():
        raise DataError(f"{folder}: the run has no final weights at {final}; it has not finished")
    model = build_model(config)
    try:
        load_weights(model, final)
        tokenizer = open_tokenizer(final, config.data.eos_token)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{final}: the weights cannot be read ({error}); train again with resume=never") from error
    return sample_text(config.sample, config.seed, model, tokenizer, torch.device("cpu"))
