"""Folders as `mfa-train export --format remote` leaves them, of small models, and what transformers loads of them."""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import transformers.dynamic_module_utils
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from mfa_train.export.formats import Format, Remote
from mfa_train.feed_forward.names import in_model, on_disk
from mfa_train.model.decoder import LanguageModel, weights_of_model
from tests.conftest import _small_model, small_config

MODULES = tempfile.TemporaryDirectory()
"""Where transformers copies the code of folders to, one place a process, instead of ~/.cache."""
transformers.dynamic_module_utils.HF_MODULES_CACHE = MODULES.name


def written(folder: Path, attention: str, *overrides: str, form: type[Format] = Remote, **keys: Any) -> LanguageModel:
    """The model whose weights `folder` then has, beside `keys` in its config.json and a tokenizer of bytes."""
    ours = _small_model(attention, overrides, 0.15)
    said = form(small_config(attention, overrides))
    folder.mkdir(parents=True)
    ends = {"dtype": "float32", "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(said.settings() | ends | keys))
    for name, content in said.files().items():
        (folder / name).write_bytes(content)
    save_file(weights_there(said, ours), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer().save_pretrained(folder)
    return ours


def loaded(folder: Path, **choices: Any):
    """The folder's model, in evaluation, as a machine without this project would have it."""
    choices = {"trust_remote_code": True, **choices}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mfa_train", None)
        logging.disable_progress_bar()
        return AutoModelForCausalLM.from_pretrained(folder, **choices).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, 0 the separator, in front of each text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:198]
    made = Tokenizer(models.BPE({"<s>": 0, **{letter: 1 + place for place, letter in enumerate(letters)}}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="<s>", pad_token="<s>", padding_side="left"
    )


def weights_there(form: Format, model: LanguageModel) -> dict[str, Tensor]:
    """Of `model`, as the form holds them."""
    values = {name: weight.detach() for name, weight in weights_of_model(model).items()}
    shapes = {name: tuple(weight.shape) for name, weight in values.items()}
    for name, shape in on_disk(shapes).items():
        parameter, start = in_model(name, shape)
        values[name] = values[parameter].flatten()[start : start + math.prod(shape)].view(shape)
    return {name: form.there(name, values[ours]).clone() for name, ours in form.sources(shapes).items()}
