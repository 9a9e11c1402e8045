"""`mfa-train generate` and `mfa-train cache-loss` of a run that is there, and texts as they grow."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mfa_train import cli
from mfa_train.data.tokenizer.growing_text import GrowingText
from tests.test_first_round import FILES

RUN = "runs/mfa"


@pytest.fixture
def door(monkeypatch, tmp_path):
    """`door(*words)`: status, standard output and error of `mfa-train WORDS` beside a run and its corpus."""
    monkeypatch.chdir(shutil.copytree(FILES, tmp_path / "first_round"))

    def type_in(*words: object, terminal: bool = False) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mfa-train", *map(str, words)])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            out.isatty = lambda: terminal
            return cli.main(), out.getvalue(), err.getvalue()

    return type_in


class Bytes:
    """A tokenizer of two bytes a token, as pieces that hold parts of characters are; eos is 0."""

    eos_id = 0

    def text_bytes(self, ids: np.ndarray) -> bytes:
        return b"".join(int(one).to_bytes(2, "big") for one in ids if one != self.eos_id)


def grown(text: str, *stop: str, more: bytes = b"") -> tuple[GrowingText, list[str]]:
    """`text` behind the prompt `ab`, and what could be shown after each token."""
    content = text.encode() + more
    content += b"." * (len(content) % 2)
    growing, shown = GrowingText(Bytes(), [int.from_bytes(b"ab", "big")], stop), []
    for at in range(0, len(content), 2):
        if not growing.ended:
            growing.add(int.from_bytes(content[at : at + 2], "big"))
            shown.append(growing.text[: growing.settled])
    return growing, shown


def test_characters_show_once_they_are_whole():
    growing, shown = grown("x漢🙂y")
    assert growing.text == "abx漢🙂y." and shown == ["abx", "abx漢", "abx漢", "abx漢🙂", "abx漢🙂y."]
    growing, _ = grown("xy", more="🙂".encode()[:2])
    assert growing.text == "abxy"
    growing.cut_off()
    assert growing.text == "abxy�"


def test_what_began_like_a_stop_text_shows_once_nothing_follows():
    growing, shown = grown("one two.", "two...")
    assert shown[-1] == "abone "
    growing.cut_off()
    assert growing.text[: growing.settled] == "abone two." and growing.record()["finish_reason"] == "length"


@pytest.mark.parametrize(
    "text, stop, expected",
    [
        ("one two.", ["e tw"], "abon"),
        ("one two ", ["two ", " "], "abone"),
        ("xabcd...", ["abcd", "bc"], "abxa"),
        ("ababab", ["ab"], "ab"),
        ("bcbc", ["abc"], "abbcbc"),
        ("漢字漢字", ["字漢"], "ab漢"),
    ],
)
def test_a_text_ends_before_the_first_stop_text_that_is_complete_and_shows_nothing_of_it(text, stop, expected):
    growing, shown = grown(text, *stop)
    assert growing.text == expected
    assert all(growing.text.startswith(one) for one in shown)


def test_samples_of_several_prompts_are_parted_by_a_line_and_repeat_under_the_seed(door):
    typed = ["generate", RUN, "--prompt", "The run", "--prompt", "a", "--num-samples", 2, "sample.max_new_tokens=9"]
    status, out, err = door(*typed)
    texts = out.removesuffix("\n").split("\n---------------\n")
    assert status == 0 and [text[:1] for text in texts] == ["T", "T", "a", "a"] and len(set(texts)) == 4
    assert door(*typed)[1] == out != door(*typed, "seed=2")[1]
    records = [json.loads(line) for line in door(*typed, "--json")[1].splitlines()]
    assert [one["prompt"] + one["text"] for one in records] == texts
    assert [one["sample"] for one in records] == [0, 1, 0, 1]
    assert f"{sum(one['tokens'] for one in records)} tokens in " in err
    capacity = 4 * (1 + 2 + 9)  # rows of the separator, the longer prompt's tokens and the new ones
    assert f"cache {capacity * 512:,} bytes, 512 a token (fp32)\n" in err


def test_each_of_several_prompts_goes_on_as_alone_and_a_terminal_sees_the_same_text(door):
    greedy = ["sample.temperature=0", "sample.max_new_tokens=12"]
    both = door("generate", RUN, *greedy, "--prompt", "The run", "--prompt", "def f(x):\n")[1]
    alone = [door("generate", RUN, *greedy, "--prompt", one)[1] for one in ("The run", "def f(x):\n")]
    assert both == "---------------\n".join(alone)
    shown = door("generate", RUN, *greedy, "--prompt", "The run", terminal=True)[1]
    assert shown == alone[0].replace("\f", "\\x0c")
    stopped = door("generate", RUN, *greedy, "--prompt", "The run", "--stop", ")", "--stop", "ZE")
    assert stopped[1] == alone[0].partition("ZE")[0] + "\n"


def test_text_of_an_earlier_state_is_that_of_its_checkpoint(door):
    typed = ["--prompt", "The run", "sample.temperature=0", "sample.max_new_tokens=12"]
    final, earlier = (door("generate", RUN, "--checkpoint", name, *typed)[1] for name in ("final", "step-8"))
    assert final == door("generate", RUN, *typed)[1] != earlier
    assert door("export", RUN, "--checkpoint", "step-8", "--shard-bytes", "100KB")[0] == 0
    shards = sorted(Path(RUN, "export-step-8").glob("*.safetensors"))
    exported = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    assert len(shards) > 1
    save_file(exported, Path(RUN, "checkpoints", "final", "model.safetensors"))
    assert door("generate", RUN, *typed)[1] == earlier


def test_the_loss_through_a_cache_is_that_of_the_run_and_its_bytes_are_the_plans(door):
    status, out, _ = door("cache-loss", RUN, "cache.dtype=fp32,bf16,fp8", "--json")
    rows = {row["dtype"]: row for row in json.loads(out)}
    recorded = json.loads((FILES / RUN / "summary.json").read_text())["val_loss"]
    assert status == 0
    assert rows["none"]["loss"] == pytest.approx(recorded, rel=1e-5)
    assert rows["fp32"]["loss"] == pytest.approx(recorded, rel=1e-5)
    off = {name: abs(rows[name]["loss"] - rows["none"]["loss"]) for name in ("bf16", "fp8")}
    assert off["bf16"] < off["fp8"] < 2**-4  # the rounding of one value; of a mean over 256 targets much less is left
    values = 2 * 2 * 32  # layers, key and value, head_dim
    bytes_per_token = {name: row["bytes_per_token"] for name, row in rows.items()}
    assert bytes_per_token == {"none": None, "fp32": 4 * values, "bf16": 2 * values, "fp8": values + 2 * 2}
    table = door("cache-loss", RUN)[1].splitlines()
    assert [line.split()[0] for line in table] == ["cache", "none", "bf16", "fp8"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["generate", RUN, "cache.dtype=int4"], "cache.dtype=int4: expected one of auto, fp32, bf16, fp8"),
        (["generate", RUN, "cache.dtype=bf16,fp8"], "type one, as cache.dtype=fp8"),
        (["generate", RUN, "--num-samples", 0], "--num-samples=0: expected a whole number of at least 1"),
        (["generate", RUN, "--stop", "\udcff"], "--stop='\\udcff': character 1 is half of a surrogate pair"),
        (["generate", RUN, "--stop", ""], "--stop '': expected a text, as --stop 'class '"),
        (["generate", RUN, "--checkpoint", "step-9"], "type --checkpoint step-00000008 (or final)"),
        (["export", RUN, "--checkpoint", "step-9"], "has no step-00000009; type --checkpoint step-00000008 (or final)"),
        (["export", RUN, "--checkpoint", "best"], "--checkpoint best: expected final or step-N, as step-100; type "),
        (["export", RUN, "--out", RUN], f"--out={RUN} is there already; type --out=FOLDER with another"),
        (["export", RUN, "--shard-bytes", "0"], "--shard-bytes=0: expected a whole number of bytes above 0, as "),
        (["export", RUN, "--shard-bytes", "5 bananas"], "--shard-bytes=5 bananas: expected a whole number of bytes"),
        (["export", RUN, "--dtype", "fp8"], "--dtype: invalid choice: 'fp8' (choose from"),
        (
            ["export", RUN, "--verify"],
            "has no checksum, as it is of an older version, or damaged; type --checkpoint step-00000008",
        ),
        (["export", RUN, "dtype=bf16"], "dtype=bf16: expected RUN and options alone"),
        (["export", "unfinished"], "it has not finished; it has no whole checkpoint either"),
        (["cache-loss", RUN, "cache.dtype=bf16,int4"], "cache.dtype=int4: expected one of auto, fp32, bf16, fp8"),
        (["cache-loss", RUN, "attention=mha"], "attention=mha: expected cache.dtype=TYPE[,TYPE]"),
        (["cache-loss", RUN, "data.path=nowhere"], "data.path=nowhere: the corpus that "),
        (["cache-loss", "unfinished"], "unfinished: the run has no final weights: type the folder of a finished run"),
    ],
    ids=lambda value: " ".join(map(str, value[2:])) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line(words, told, door):
    shutil.copytree(RUN, "unfinished", ignore=shutil.ignore_patterns("checkpoints"))
    before = set(Path().rglob("*"))
    status, out, err = door(*words)
    assert (status, out) == (2, "") and err.startswith("error: ") and told in err and err.count("\n") == 1
    assert set(Path().rglob("*")) == before


def test_a_text_beyond_what_the_run_was_trained_on_is_told(door):
    short, long = (door("generate", RUN, "--prompt", "x" * size, "sample.max_new_tokens=1") for size in (1, 2000))
    assert "trained on windows" not in short[2] and "and the run was trained on windows of " in long[2]


def test_prompts_that_no_memory_holds_are_refused_before_the_first_token(door):
    status, out, err = door("generate", RUN, "--num-samples", 4096, "--prompt", "x " * 30_000)
    assert (status, out) == (2, "") and err.startswith("error: --num-samples: 4,096 texts behind prompts of up to ")
