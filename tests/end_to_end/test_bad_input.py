"""Each mistake ends with one readable line and exit status 2, and nothing is written."""

import pytest

from tests.conftest import ROOT, VARIANTS

MISTAKES = {  # what is typed: what the line says
    "attention.head_dimm=32": "attention.head_dimm: no such key. Did you mean 'attention.head_dim'?",
    "+model.hiden_size=64": "model.hiden_size: no such key. Did you mean 'model.hidden_size'?",
    "attention=mfaa": "attention=mfaa: no such choice. Did you mean 'mfa'?",
    "atention=mfa": "atention: no such key. Did you mean 'attention'?",
    "model=huge": "model=huge: no such choice. Known: 125m,",
    "training.steps=many": "training.steps=many: expected a whole number",
    "optimizer.lr=-1": "optimizer.lr=-1.0: expected a number of at least 0",
    "training.compile=perhaps": "training.compile=perhaps: expected true or false",
    "training.steps=0": "training.steps=0: expected a whole number of at least 1",
    "zero=4": "zero=4: expected one of 0, 1, 2, 3",
    "attention.head_dim=33": (
        "attention.head_dim=33: RoPE turns pairs of dimensions, and would turn 33: type attention.head_dim=34"
    ),
    "attention=gqa model.num_key_value_heads=3": "type attention.num_key_value_heads=2",
    "training.batch_size=6 training.micro_batch_size=4": "the nearest that is: training.batch_size=8",
    "training.sequence_length=10000000 plan.check=false": (
        "training.sequence_length=10000000 is longer than the training data"
    ),
    "training.sequence_length=200000": "longer than the held-out data",
    "attention=mha attention.q_lora_rank=8": "attention.q_lora_rank=8: attention=mha has no such key: type attention=",
    "seed=1,2": "type -m as well, as python train.py -m",
    "model=null": "expected GROUP=CHOICE",
    "model.vocab_size=100": "type model.vocab_size=4096",
    "attention.kernel=tiled": "type precision=bf16, or attention.kernel=auto",
    "attention.kernel=flash precision=bf16": "attention.kernel=flash needs a CUDA device",
    "runs_dir=/proc/runs": "runs_dir=/proc/runs: ",
    "name=a/b": "name='a/b': expected a plain folder name",
    "offload=parameters": "type zero=3 as well",
    "training.tokens=1000": "exactly one of them says how long",
    "schedule.warmup_steps=1000": "does not fit into 20 steps",
    "match.kv_bytes_per_token=lots": "match.kv_bytes_per_token=lots: expected a whole number of bytes above 0",
    "match.kv_bytes_per_token=8": "no mfa of model=nano caches so little. Nearest below: none; above: 64",
    "model.num_hidden_layers=1000000": "(plan.check=false starts it all the same)",
    "training.steps": "expected GROUP=CHOICE or KEY=VALUE",
    "lr=1e-3": "lr: no such key. Did you mean 'optimizer.lr'?",
    "--lr=1e-3": "--lr: no such option. Keys are typed without dashes",
    "data.vocab_size=1.5": "data.vocab_size=1.5: expected a whole number",
    "name=null": "name=null: expected text",
    "hydra.mode=MULTIRUN": "Hydra's own settings are fixed here",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_told_in_one_line(typed, refused, tmp_path):
    status, lines = refused(*typed.split())
    assert status == 2, lines
    assert lines[-1].startswith("error: ") and MISTAKES[typed] in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_under_a_launcher_the_first_rank_tells_it_once(train, tmp_path):
    done = train("training.batch_size=3", processes=2)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == [
        "error: training.batch_size=3 is not a multiple of 2 ranks; the nearest that is: training.batch_size=4"
    ]
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_run_are_left_alone(train, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = train("name=mine")
    assert done.returncode == 2 and "holds files that are no run" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_help_shows_the_choices(train):
    done = train("--help")
    assert done.returncode == 0
    assert f"attention: {', '.join(VARIANTS)}" in done.stdout
    assert (ROOT / "configs" / "model" / "nano.yaml").is_file() and "nano" in done.stdout
