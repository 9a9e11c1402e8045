"""benchmarks/decoding.py: it runs, and both contenders decode the same token over the same cache."""

import importlib.util
import json
import re
import sys

import pytest
import torch

from tests.conftest import ROOT


@pytest.fixture
def decoding(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("decoding", ROOT / "benchmarks" / "decoding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "last_level_cache", lambda: 2**20)
    monkeypatch.setattr(sys.modules["decoders"], "SERVE", ROOT / "no-such-python")
    return module


def test_cells_are_measured_once_and_the_last_line_is_json(decoding, monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--quick", "--out", str(tmp_path / "cells.jsonl")])
    told = []
    for _ in range(2):
        decoding.main()
        told.append(json.loads(capsys.readouterr().out.splitlines()[-1])["cells"])
    first, again = told
    assert first == again == [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    mha, reuse = first
    assert {"attend", "layer", "hugging_face_layer", "whole", "hugging_face_whole"} <= set(mha) and "unrotated" in reuse
    assert mha["no_vllm"] == "not installed: make .venv/.serve" and "mfa_kr" in reuse["no_vllm"]
    assert reuse["cache_bytes_per_layer"] * 8 == mha["cache_bytes_per_layer"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["attention=mla", "model=350m"], "512 + 64 alone, not 256 + 32"),
        (["attention=gqa", "model=nano", "model.head_dim=48"], "no heads of 48"),
        (["attention=mfa", "model=nano", "attention.inter_norm=false"], "attention.inter_norm=false"),
    ],
)
def test_what_vllm_has_no_steps_of_is_told(words, told, decoding):
    decoders = sys.modules["decoders"]
    with pytest.raises(decoders.VLLMMissing, match=re.escape(told)):
        decoders.vllm_settings(decoding.configs.load(words), context=64)


def test_hugging_face_decodes_the_same_token_over_the_same_memory(decoding):
    pytest.importorskip("transformers")
    config = decoding.configs.load(["attention=gqa", "model=nano"])
    ours = decoding.Ours(config, torch.float32)
    theirs = decoding.HuggingFace(config, ours)
    with torch.inference_mode():
        ours.fill(batch=2, context=24, layers=config.model.num_hidden_layers)
        theirs.share()
        torch.testing.assert_close(theirs.whole(), ours.whole(), atol=1e-4, rtol=1e-4)
