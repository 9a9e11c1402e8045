"""Fixtures that several folders share. Tests run on the CPU, in float32 unless they say otherwise."""

import copy
import functools
import os
from pathlib import Path

os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small for more, and the cores are for other tests

import pytest
import torch

from mfa_train import config as configs
from mfa_train.attention import attention_config, variants
from mfa_train.model.decoder import LanguageModel
from mfa_train.model.initialization import initialize
from tests import forks

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = variants()

SMALL = [
    "model.hidden_size=64",
    "model.num_hidden_layers=2",
    "model.intermediate_size=96",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=16",
    "model.vocab_size=199",
]
"""A decoder that a test can afford."""


COMMANDS = forks.install()
LONGEST = (
    *("test_slurm.py", "end_to_end", "launch", "test_first_round.py", "test_start_up.py", "scaling"),
    *("training", "test_spoilt_runs.py", "budget", "data"),
)
"""Files, and folders of them, in the order in which they are tried: the last, which leave a worker waiting, are short;
the first, which waits for SLURM, leaves the cores to the other worker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def order(item: pytest.Item) -> int:
        parts = item.path.relative_to(ROOT / "tests").parts
        return next((place for place, name in enumerate(LONGEST) if name in parts), len(LONGEST))

    items.sort(key=order)
    COMMANDS.note_environment()


@pytest.fixture(autouse=True)
def forked_where_not_marked(request):
    """`real_command` tests start Python, as users do."""
    COMMANDS.enabled = request.node.get_closest_marker("real_command") is None
    with COMMANDS.same_environment():
        yield


@pytest.fixture
def small_model():
    """`small_model(attention, *overrides)`: a small LanguageModel with weights large enough to tell things apart."""

    def make(attention: str, *overrides: str, std: float = 0.15) -> LanguageModel:
        return copy.deepcopy(_small_model(attention, overrides, std))

    return make


@functools.cache
def small_config(attention: str, overrides: tuple[str, ...] = (), std: float = 0.15) -> configs.Config:
    return configs.load([f"attention={attention}", *SMALL, f"model.initialization.std={std}", *overrides])


@functools.cache
def _small_model(attention: str, overrides: tuple[str, ...], std: float) -> LanguageModel:
    config = small_config(attention, overrides, std)
    model = LanguageModel(config.model, attention_config(config.attention))
    initialize(model, config.model.initialization, config.seed, config.model.num_hidden_layers)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms and gates off their trivial start
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def prepared_data(tmp_path_factory) -> Path:
    """A data_dir with the embedded corpus, prepared once for the whole session."""
    from mfa_train.data.preparing.prepare import prepare

    data_dir = tmp_path_factory.mktemp("data")
    prepare(configs.load([f"data_dir={data_dir}"]).data)
    return data_dir
