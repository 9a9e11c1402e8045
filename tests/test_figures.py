"""docs/figures.py: pictures of runs lie beside the runs, and those of docs/ change only when that is typed."""

import importlib.util
import json

import pytest

from mfa_train.scaling.study.pack import pack
from tests.conftest import ROOT
from tests.scaling.synthetic import VARIANTS, write_ladder


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """The script as a module; its pictures of docs/ go elsewhere."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[plot]'")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "IMAGES", tmp_path / "images")
    return module


def test_a_picture_of_runs_is_drawn_beside_them_and_from_an_archive_the_same(figures, monkeypatch, tmp_path):
    (run,) = write_ladder(tmp_path / "runs", [VARIANTS[0]], {"4x192": 3.2e6}, (5e7,), (1,))
    pack([run], tmp_path / "study.zip", lambda _: None)
    for words in ([run], [tmp_path / "study.zip" / run.name, "--out", tmp_path / "drawn"]):
        monkeypatch.setattr("sys.argv", ["figures.py", *map(str, words)])
        figures.main()
    assert (tmp_path / "drawn" / "loss.svg").read_bytes() == (run / "loss.svg").read_bytes()
    assert not (tmp_path / "images").exists()
    monkeypatch.setattr("sys.argv", ["figures.py", str(tmp_path / "study.zip" / run.name)])
    with pytest.raises(SystemExit):
        figures.main()


def test_decoding_times_are_drawn_from_measured_cells(figures, monkeypatch, tmp_path):
    cell = {"variant": "mha", "batch": 1, "layer": {"ms": 0.5}, "hugging_face_layer": {"ms": 0.7}}
    cells = [cell | {"context": context} for context in (1024, 8192)] + [
        {"variant": "fpba", "batch": 1, "context": 1024, "failed": "no such cache"}
    ]
    measured = tmp_path / "cells.jsonl"
    measured.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    monkeypatch.setattr("sys.argv", ["figures.py", "--decoding", str(measured), "--out", str(tmp_path)])
    figures.main()
    drawn = (tmp_path / "decoding.svg").read_text()
    assert "mha, Hugging Face" in drawn and "8K" in drawn and "fpba" not in drawn


def test_context_per_gpu_is_drawn_from_the_longest_sequences(figures, monkeypatch, tmp_path):
    cells = [
        {"device": "h100-80gb", "attention": name, "context": context, "kv_bytes_per_token": cache, "tokens": tokens}
        for name, cache, context, tokens in (
            *(("mha", 2**19, 1, 99_328), ("mha", 2**19, 8, 442_368)),
            *(("mfa_kr", 2**14, 1, 92_160), ("mfa_kr", 2**14, 8, 671_744)),
        )
    ]
    found = tmp_path / "longest.jsonl"
    found.write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    monkeypatch.setattr("sys.argv", ["figures.py", "--context", str(found), "--out", str(tmp_path)])
    figures.main()
    drawn = (tmp_path / "context-per-gpu.svg").read_text()
    assert "h100-80gb" in drawn and "mfa_kr" in drawn
