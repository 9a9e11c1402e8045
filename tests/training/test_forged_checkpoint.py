"""A checkpoint of someone who means harm: its checksums are right, and what it tells is not."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from mfa_train.checkpoints import folders as files
from mfa_train.checkpoints import manifest, tensor_files
from mfa_train.checkpoints.tensor_files import KINDS, RNG, Piece
from mfa_train.data.shards.store import sha256_of
from mfa_train.errors import DataError, UserError
from mfa_train.training.resuming.resume_point import find_resume_point
from mfa_train.training.saving.rng import rng_state
from tests.forgeries import ODD, changed, places
from tests.training.checkpoints import CONFIG, DATA, VALUES, found, save


class Harm:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_crafted_pickle_in_place_of_a_file_does_nothing_even_with_a_forged_manifest(tmp_path, capsys):
    checkpoint = save(tmp_path / "checkpoints", 4)
    path = checkpoint / "rank-00001.safetensors"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match="no checkpoint is whole"):
        found(tmp_path)
    content = json.loads((checkpoint / "manifest.json").read_text())["content"]
    content["files"][1] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    forged = {"sha256": manifest.digest(content), "content": content}
    (checkpoint / "manifest.json").write_text(json.dumps(forged))
    with pytest.raises(files.Damaged, match="rank-00001.safetensors cannot be read"):
        tensor_files.CheckpointReader(checkpoint, files.verified(checkpoint)).rng(1)
    assert "executed" not in capsys.readouterr().out


def forge(checkpoint, content: dict) -> None:
    """A manifest with a right checksum."""
    (checkpoint / "manifest.json").write_text(json.dumps({"sha256": manifest.digest(content), "content": content}))


def test_no_forged_field_of_a_manifest_is_a_bug_or_a_hang(tmp_path):
    checkpoint = save(tmp_path / "checkpoints", 4)
    content, same = files.verified(checkpoint), VALUES["master"].clone()
    refused = 0
    for number, place in enumerate(places(content)):
        if place[0] == "config" and len(place) > 1 and number % 20:
            continue  # all of them would take long
        for value in (places, *ODD):
            forged = changed(content, place, value)
            forge(checkpoint, forged)
            try:
                point = find_resume_point(CONFIG, tmp_path, DATA, lambda line: None)
                point.state(CONFIG.guard, print)
                piece = Piece("w", 0, {kind: torch.zeros(10) for kind in KINDS})
                tensor_files.CheckpointReader(point.checkpoint, point.content).fill(piece)
                assert torch.equal(piece.tensors["master"], same)
            except UserError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "fields, told",
    [
        ({"files": [{"name": "../rank-00000.safetensors", "bytes": 1, "sha256": "0" * 64}]}, "file 0 is called"),
        ({"world_size": 3}, "2 files of 3 processes"),
        ({"step": True}, "step is True"),
        ({"updates": -1}, "updates is -1"),
        ({"updates": 2**53}, "updates is 9007199254740992, expected a whole number from 0 to"),
        ({"progress": {"step": 4, "idle_experts": [[0], [0, 1]]}}, "layers of progress.idle_experts are not of one"),
        ({"step": 5, "progress": {"step": 5}}, "is of step 5, in a folder step-00000004"),
        ({"progress": {"step": 4, "seconds": float("nan")}}, "seconds is nan"),
        ({"progress": {"step": 4, "more": 1}}, "progress holds 'more'"),
        ({"guard": {"skipped": 0}}, "guard lacks spikes"),
        ({"stretches": {"w": [0, 4, 1]}}, "stretches of 'w' are .0, 4, 1., expected"),
        (
            {"stretches": {"w": [0, 4, 2, 10]}},
            "a file in the stretches of 'w' is 2, expected a whole number",
        ),
        ({"stretches": {"w": [0, 4, 1, 4]}}, "the ends in the stretches of 'w' are not in order"),
        ({"stretches": {"w": [0, True, 1, 10]}}, "expected .file, end, …. in whole numbers"),
        ({"format": 4}, "is of format 4, this version reads 1, 2, 3"),
        ({"format": 3}, "ema is missing in format 3"),
        ({"ema": 0.9}, "ema is there in format 2"),
        ({"format": 3, "ema": 1.5}, "ema is 1.5, expected a number between 0 and 1"),
    ],
)
def test_a_forged_manifest_is_damaged_and_the_field_is_named(fields, told, tmp_path):
    checkpoint = save(tmp_path, 4)
    forge(checkpoint, files.verified(checkpoint) | fields)
    with pytest.raises(files.Damaged, match=told):
        files.verified(checkpoint)


def rewritten(checkpoint, tensors: dict, form: int = manifest.FORMAT) -> dict:
    """The checkpoint with other tensors in its second file, and a manifest of format `form` that vouches for them."""
    path = checkpoint / "rank-00001.safetensors"
    save_file(tensors, path)
    content = json.loads((checkpoint / "manifest.json").read_text())["content"]
    content["files"][1] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    content["format"] = form
    if form in manifest.OLDER:
        del content["stretches"]
    forge(checkpoint, content)
    return files.verified(checkpoint)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda kind: {f"{kind}:w:3": torch.zeros(6)}, "there twice between 3 and 4"),  # a hole of equal size behind
        (lambda kind: {f"{kind}:w:5": torch.zeros(5)}, "missing between 4 and 5"),
        (lambda kind: {f"{kind}:w:4": torch.zeros(6, dtype=torch.float64)}, "of type F64"),
        (lambda kind: {f"{kind}:w:4": torch.zeros(6, 1)}, "shape .6, 1."),
        (lambda kind: {f"{kind}:w:4": torch.zeros(())}, "shape ..,"),
        (lambda kind: {f"{kind}:w": torch.zeros(6)}, "holds a tensor"),
        (lambda kind: {f"{kind}:w:-4": torch.zeros(6)}, "holds a tensor"),
        (lambda kind: {f"{kind}:w:04": torch.zeros(6)}, "holds a tensor"),
        (lambda kind: {f"x{kind}:w:4": torch.zeros(6)}, "holds a tensor"),
        (
            lambda kind: {f"{kind}:w:4": torch.zeros(6 if kind == "master" else 7)},
            "w has master, exp_avg, exp_avg_sq of 10 and 11 values",
        ),
    ],
)
def test_files_whose_stretches_make_no_whole_are_damaged(change, told, tmp_path):
    checkpoint = save(tmp_path, 4)
    tensors = {RNG: rng_state()} | {key: value for kind in KINDS for key, value in change(kind).items()}
    with pytest.raises(files.Damaged, match=told):
        tensor_files.CheckpointReader(checkpoint, rewritten(checkpoint, tensors, 1))
    piece = Piece("w", 0, {kind: torch.zeros(10) for kind in KINDS})
    with pytest.raises(files.Damaged, match="does not say|cannot be read"):
        tensor_files.CheckpointReader(checkpoint, rewritten(save(tmp_path, 4), tensors)).fill(piece)


@pytest.mark.parametrize("rng", [{}, {RNG: torch.zeros(3)}, {RNG: torch.zeros((), dtype=torch.uint8)}])
def test_random_generators_that_are_none_are_damaged(rng, tmp_path):
    checkpoint = save(tmp_path, 4)
    content = rewritten(checkpoint, rng | {f"{kind}:w:4": torch.zeros(6) for kind in KINDS})
    with pytest.raises(files.Damaged, match="rng"):
        tensor_files.CheckpointReader(checkpoint, content).rng(1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        (2**62).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_file_with_a_forged_header_is_damaged(content, tmp_path):
    checkpoint = save(tmp_path, 4)
    path = checkpoint / "rank-00001.safetensors"
    path.write_bytes(content)
    told = json.loads((checkpoint / "manifest.json").read_text())["content"]
    told["files"][1] |= {"bytes": len(content), "sha256": sha256_of(path)}
    forge(checkpoint, told)
    with pytest.raises(files.Damaged):
        tensor_files.CheckpointReader(checkpoint, files.verified(checkpoint)).fill(
            Piece("w", 0, {kind: torch.zeros(10) for kind in KINDS})
        )


@pytest.mark.parametrize(
    "stretches",
    [
        {"w": [0, 5, 1, 10]},
        {"w": [1, 4, 0, 10]},
        {"w": [0, 4, 1, 9]},
        {"w": [0, 4, 1, 11]},
        {"w": [0, 4]},
        {"v": [0, 4, 1, 10]},
        {},
    ],
)
def test_a_manifest_that_places_values_elsewhere_gives_none(stretches, tmp_path):
    checkpoint = save(tmp_path, 4)
    forge(checkpoint, files.verified(checkpoint) | {"stretches": stretches})
    reader = tensor_files.CheckpointReader(checkpoint, files.verified(checkpoint))
    with pytest.raises(files.Damaged):
        reader.fill(Piece("w", 0, {kind: torch.zeros(10) for kind in KINDS}))
