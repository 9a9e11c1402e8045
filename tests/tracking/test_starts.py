"""starts.jsonl with lines that are damaged."""

import json

import pytest

from mfa_train.tracking.starts import starts
from mfa_train.training.run_folder.opening import wandb_identity

WHOLE = {"from_step": 0, "wandb": {"id": "one"}}


@pytest.mark.parametrize(
    "damaged", [b"[1]", b"\xff\xfe", b"\0\0\0", b'{"from_step": 3', b"[" * 5000, b'"text"'], ids=repr
)
def test_a_damaged_start_costs_itself_alone(damaged, tmp_path):
    line = json.dumps(WHOLE).encode()
    (tmp_path / "starts.jsonl").write_bytes(b"\n".join([line, damaged, line, b""]))
    assert starts(tmp_path) == [WHOLE, WHOLE]


@pytest.mark.parametrize("odd", [{}, {"wandb": None}, {"wandb": "two"}, {"wandb": {}}, {"wandb": {"id": 3}}])
def test_a_start_that_lacks_its_wandb_run_hides_no_earlier_one(odd):
    assert wandb_identity([WHOLE, odd]) == {"id": "one"} and wandb_identity([odd]) is None
