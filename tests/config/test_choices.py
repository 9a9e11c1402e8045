"""Every choice composes, and so does every command that the documentation shows."""

import re
import shlex

import pytest

from mfa_train import config as configs
from mfa_train.attention import attention_config
from mfa_train.budget.shape import measure
from tests.conftest import ROOT, VARIANTS

MILLIONS = {"125m": 125, "350m": 350, "1b": 1300, "3b": 2900, "7b": 6700}
CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name != "local"
)
DOCUMENTED = sorted(
    {
        line.strip()
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.match(r"\s*(python|torchrun .*) ?train\.py ", line) and " -m " not in line
    }
)


@pytest.fixture(scope="module")
def models() -> dict[str, configs.ModelConfig]:
    sizes = (path.stem for path in (ROOT / "configs" / "model").glob("*.yaml"))
    return {size: configs.load([f"model={size}", "model.vocab_size=32000"]).model for size in sizes}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice):
    config = configs.load([choice])
    attention_config(config.attention)
    assert config.training.total_steps > 0


@pytest.mark.parametrize("attention", VARIANTS)
def test_every_attention_exists_at_every_size_which_is_what_it_is_called(attention, models):
    """With a vocabulary of 32,000; the variants that save parameters in attention are not matched yet."""
    for size, model in models.items():
        params = measure(model, configs.default_attention(attention, model)).params
        assert 0.65 < params / 1e6 / MILLIONS.get(size, params / 1e6) < 1.35


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_commands_compose(command):
    words = shlex.split(command.split(" #")[0])
    overrides = words[words.index("train.py") + 1 :]
    configs.load([word for word in overrides if not word.startswith("--") and "NAME" not in word and word != "…"])
