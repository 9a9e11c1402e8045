"""What is told before anything starts: of a launch, `launch --dry-run` and `plan`."""

import re

import fsspec
import pytest

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.launch import local
from mfa_train.launch.checks import require_trainable
from mfa_train.launch.plans import plan_of, whole
from mfa_train.launch.start import launch
from mfa_train.tracking.terminal import wrapped

SLURM = ["cluster=slurm", "cluster.nodes=2", "cluster.device=h100-80gb", "training.batch_size=16"]


@pytest.fixture
def dry(prepared_data, tmp_path, monkeypatch, capsys):
    """`dry(*overrides)`: the exit status and what is told, its sentences in one line each; nothing may be written."""
    (tmp_path / "bin").mkdir()
    for tool in ("sbatch", "ssh", "pdsh"):
        (tmp_path / "bin" / tool).write_text("")
        (tmp_path / "bin" / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def told(*overrides: str, multirun: bool = False) -> tuple[int, str]:
        runs = tmp_path / "runs"
        status = launch([f"data_dir={prepared_data}", f"runs_dir={runs}", *overrides], multirun, dry_run=True)
        assert not runs.exists()
        return status, capsys.readouterr().out.replace("\n  ", " ")

    return told


def test_it_says_what_would_run_what_it_costs_and_that_nothing_would_be_refused(dry):
    status, told = dry(*SLURM, "cluster.price_per_device_hour=2")
    assert status == 0 and "nothing would be refused" in told and "would be refused:" not in told
    assert "sbatch --parsable --job-name=mfa-nano --nodes=2" in told
    for row in (
        "steps",
        "tokens per parameter",
        "epochs of python_stdlib",
        "learning rate, last",
        "run",
        "cost",
    ):
        assert re.search(rf"^{row}.* \S+$", told, re.M), row
    assert "not looked at: what the scheduler says" in told


def test_every_refusal_of_the_launch_is_told_by_the_dry_run_at_once(dry, prepared_data, tmp_path, monkeypatch):
    """One of each group of checks; the launch itself stops at the first."""
    monkeypatch.chdir(tmp_path)  # where no run is, as `make train` leaves one
    mistakes = {
        "schedule.warmup_steps=1000": "schedule.warmup_steps=1000 does not fit into 700 steps",
        "model.vocab_size=100": "model.vocab_size=100 is smaller than the tokenizer's vocabulary of 4096",
        "cluster.shared=[/scratch]": "runs_dir=.*: not in a folder that all nodes share",
        "cluster.template=/no/such": "cluster.template=/no/such: no such file",
        "cluster.environment=/no/environment": "cluster.environment=/no/environment: cannot be read",
    }
    status, told = dry(*SLURM, *mistakes)
    found = re.findall("^would be refused: (.*)$", told, re.M)
    assert status == 2 and len(found) == 5
    assert all(re.match(pattern, line) for pattern, line in zip(mistakes.values(), found))
    with pytest.raises(ConfigError, match=next(iter(mistakes.values()))):
        require_trainable(configs.members([*SLURM, f"data_dir={prepared_data}", *mistakes]))


def test_a_run_that_does_not_fit_is_planned_and_would_be_refused(dry):
    status, told = dry(*SLURM, "model=7b", "cluster.device=a100-40gb", "training.batch_size=64")
    assert status == 2 and "does not fit" in told and "would be refused: model=7b: the run needs about" in told


def test_a_corpus_that_the_run_itself_prepares_is_said_to_be_looked_at_later(dry, tmp_path):
    status, told = dry(f"data_dir={tmp_path}/nowhere")
    assert status == 0 and "is prepared when the run starts" in told
    status, told = dry(*SLURM, f"data_dir={tmp_path}/nowhere")
    assert status == 2 and "no prepared corpus is there" in told


def test_gpus_that_this_machine_lacks_are_refused_before_anything_is_written(dry, prepared_data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    typed = ["cluster.device=h100-80gb", "cluster.devices_per_node=2"]
    status, told = dry(*typed)
    refusal = "cluster.device=h100-80gb: cluster=local trains on this machine, which has 1 GPU for 2 ranks: type"
    assert status == 2 and f"would be refused: {refusal}" in told and "2 ranks of train.py on this machine" in told
    with pytest.raises(ConfigError, match=refusal):
        launch([f"data_dir={prepared_data}", f"runs_dir={tmp_path}/runs", *typed], multirun=False, dry_run=False)
    assert not (tmp_path / "runs").exists()
    assert dry(typed[0])[0] == 0


def test_over_ssh_what_would_run_is_told_beside_a_refusal(dry, tmp_path):
    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    (tmp_path / "bin" / "pdsh").unlink()
    typed = ["cluster=ssh", f"cluster.hostfile={tmp_path}/hosts", "cluster.device=h100-80gb", "cluster.nodes=2"]
    status, told = dry(*typed, "cluster.devices_per_node=1")
    assert status == 2 and "pdsh is not installed here" in told and "on a, b, each rank with" in told


@pytest.mark.parametrize("way", [["cluster=local"], SLURM])
def test_a_corpus_behind_a_url_is_a_refusal_beside_the_plan_or_what_is_not_looked_at(way, dry, prepared_data, tmp_path):
    [folder] = [path.parent for path in prepared_data.glob("*/manifest.json")]
    near = fsspec.filesystem("memory")
    for file in ("manifest.json", "tokenizer.model", "tokenizer.json"):
        if (folder / file).exists():
            near.pipe(f"/far/{file}", (folder / file).read_bytes())
    typed = [*way, "data=prepared", f"data.cache_dir={tmp_path}/cache", "training.steps=5", "schedule.warmup_steps=1"]
    status, told = dry(*typed, "data.path=memory://far")
    assert status == 0 and "nothing would be refused" in told
    assert "not looked at: memory://far beyond its manifest and tokenizer" in told
    status, told = dry(*typed, "data.path=nosuch://bucket/py")
    assert status == 2 and re.search("^would be refused: data.path=nosuch://bucket/py: .*rotocol", told, re.M)
    assert re.search("^run +", told, re.M) and "not looked at: nosuch://bucket/py" in told
    status, told = dry(*typed, "data.path=memory://nothing", "seed=1,2", multirun=True)
    assert status == 2 and len(re.findall("would be refused: .* 1 more: memory://nothing: no prepared", told)) == 1


def test_hosts_are_not_asked_and_that_is_said(dry, tmp_path):
    (tmp_path / "hosts").write_text("a slots=8\nb slots=8\n")
    typed = ["cluster=ssh", f"cluster.hostfile={tmp_path}/hosts", "cluster.device=h100-80gb", "training.batch_size=16"]
    status, told = dry(*typed, "cluster.nodes=2")
    assert status == 0 and "on a, b, each rank with" in told and "not looked at: the hosts" in told
    status, told = dry(*typed, "cluster.nodes=3", "training.batch_size=24")
    assert status == 2 and "would be refused: cluster.nodes=3" in told


def test_a_sweep_shows_matched_shapes_their_sum_and_what_its_comparison_can_bring(dry):
    status, told = dry(
        *SLURM,
        "attention=mha,gqa",
        "seed=1,2",
        "match.kv_bytes_per_token=768",
        "match.reference=mha",
        multirun=True,
    )
    assert status == 0 and re.search(r"^set: attention.num_key_value_heads +- +2 → 1$", told, re.M)
    assert re.search(r"^4 runs together: .* device-hours", told, re.M)
    assert "warning: gqa of model=nano has 33% less cache than the budget" in told
    assert "2 seeds at one size show differences above" in told


def test_one_seed_is_said_to_bring_no_verdict_before_it_is_trained():
    members = configs.members(["attention=mha,mfa"])
    told = whole(members, [plan_of(member.config) for member in members])
    assert "one seed brings no verdict" in told
    [alone] = configs.members(["attention=mha"])
    assert "verdict" not in whole([alone], [plan_of(alone.config)])


def test_a_launch_on_this_machine_tells_its_cost_before_it_starts(prepared_data, tmp_path, monkeypatch, capsys):
    order = []
    monkeypatch.setattr(local, "launch", lambda member, job: order.append(capsys.readouterr().out) or 0)
    assert launch([f"data_dir={prepared_data}", f"runs_dir={tmp_path}"], multirun=False, dry_run=False) == 0
    assert re.search(r"^steps +700$", order[0], re.M) and re.search(r"^run +\S+ \S+$", order[0], re.M)


@pytest.mark.parametrize(
    "typed, told",
    {
        "schedule.warmup_steps=1000": "does not fit into 700 steps: type schedule.warmup_steps=70",
        "training.batch_size=7": "training.batch_size=7 is not a multiple of 2 ranks",
        "attention.kernel=flash cluster.device=cpu precision=bf16": "attention.kernel=flash needs a CUDA device",
        "model.vocab_size=100": "model.vocab_size=100 is smaller than the tokenizer's vocabulary of 4096",
    }.items(),
)
def test_a_launch_on_this_machine_refuses_before_it_writes_anything(typed, told, prepared_data, tmp_path):
    where = [f"data_dir={prepared_data}", f"runs_dir={tmp_path}", "cluster.devices_per_node=2"]
    with pytest.raises(ConfigError, match=told):
        launch([*where, *typed.split()], multirun=False, dry_run=False)
    assert not list(tmp_path.iterdir())


def test_a_launch_on_this_machine_leaves_a_corpus_that_is_not_there_to_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "launch", lambda member, job: 0)
    assert launch([f"data_dir={tmp_path}/nowhere", f"runs_dir={tmp_path}"], multirun=False, dry_run=False) == 0


def test_a_plan_warns_of_what_a_launch_would_refuse_in_its_words():
    [member] = configs.members(["schedule.warmup_steps=1000", "sample.max_new_tokens=9000"])
    warnings = [note for note in plan_of(member.config)["notes"] if note.startswith("warning: ")]
    assert len(warnings) == 2 and warnings[1].startswith("warning: sample.max_new_tokens=9000: a run's closing sample")
    assert warnings[0] == (
        "warning: schedule.warmup_steps=1000 does not fit into 700 steps: type schedule.warmup_steps=70"
    )


def test_where_no_plan_can_be_made_a_dry_run_says_why_once(dry):
    status, told = dry("training.batch_size=7", "cluster.devices_per_node=2")
    why = "training.batch_size=7 is not a multiple of 2 ranks; the nearest that is: training.batch_size=6"
    assert status == 2 and told.endswith(f"\nno plan: for what is refused below\nwould be refused: {why}\n")


def test_the_dry_run_of_a_long_sweep_names_few_members_and_ends_with_plan_and_refusals(dry):
    seeds = ",".join(map(str, range(1, 9)))
    status, told = dry(*SLURM, "attention=mha,mfa", f"seed={seeds}", "schedule.warmup_steps=1000", multirun=True)
    assert status == 2 and len(told.splitlines()) < 200
    places = [
        told.index(part) for part in ("member 2:", "… and 13 more", "#!/bin/bash", "16 runs together", "would be")
    ]
    assert places == sorted(places) and "member 3:" not in told
    assert re.findall("^would be refused: (.*)$", told, re.M) == [
        "mha seed=1 and 15 more: schedule.warmup_steps=1000 does not fit into 700 steps: type schedule.warmup_steps=70"
    ]


def test_sentences_are_wrapped_at_the_terminals_width_and_no_command_is_cut(monkeypatch):
    sentence = "warning: " + "many a word " * 20 + "type mfa-train prepare data.path=" + "/folder" * 20
    for columns, widest in (("72", 72), ("400", 120)):
        monkeypatch.setenv("COLUMNS", columns)
        lines = wrapped(sentence).split("\n")
        assert widest - 12 < max(map(len, lines[:-1])) <= widest
        assert all(line.startswith("  ") and line[2] != " " for line in lines[1:])
        assert " ".join(line.strip() for line in lines) == sentence


def test_a_sweep_that_has_too_few_gpus_for_its_slots_is_told_so(dry, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    typed = ["attention=mha,mfa", "sweep.parallel=4", "cluster.device=h100-80gb"]
    status, told = dry(*typed, multirun=True)
    assert status == 2
    assert "would be refused: sweep.parallel=4: 4 × 1 GPUs are needed and 1 are here: type sweep.parallel=1" in told


@pytest.mark.parametrize("way", ["cluster=slurm", "cluster=ssh"])
def test_other_machines_devices_are_named_and_never_guessed_from_this_one(way, dry, tmp_path):
    (tmp_path / "hosts").write_text("".join(f"n{number} slots=8\n" for number in range(16)))
    typed = [way, f"cluster.hostfile={tmp_path}/hosts", "cluster.nodes=16", "attention=mfa", "model=7b"]
    status, told = dry(*typed)
    refused = "cluster.device=auto: .*h100-80gb.* or cpu: type cluster.device=h100-80gb, or cluster.device=cpu"
    assert status == 2 and len(re.findall(f"^would be refused: {refused}$", told, re.M)) == 1
    assert "sbatch --" not in told and "deepspeed.launcher" not in told
    with pytest.raises(ConfigError, match=refused):
        require_trainable(configs.members(typed))
    _, told = dry(*typed, "cluster.device=h100-80gb")
    assert ("--gpus-per-node=8" if way == "cluster=slurm" else "deepspeed.launcher") in told
    _, told = dry(*typed, "cluster.device=cpu")
    assert "--gpus-per-node" not in told.split("#!/bin/bash")[0] and "cluster.device=auto:" not in told
