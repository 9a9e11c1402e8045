"""`mfa-train COMMAND`: the doors beside train.py. What can be typed: command_line.py."""

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from mfa_train import command_line
from mfa_train import config as configs
from mfa_train.config.quantities import bytes_of
from mfa_train.doors import report
from mfa_train.errors import ConfigError
from mfa_train.tracking.records import as_json
from mfa_train.tracking.terminal import say, say_aside, say_part, say_text
from mfa_train.words import in_one_line

BETWEEN_SAMPLES = "-" * 15
"""A line of its own, as nanoGPT's sample.py has it."""
EVALUATION_KEYS = ("tasks", "tasks_dir", "num_fewshot", "limit", "batch_tokens")
"""Of the config's node `evaluation`, which is not typed before them."""
MOST_SAMPLES, MOST_WINDOWS = 2**12, 2**20
SHARED = "parallel.context="
"""With it ranks read prompts together; a run's own says how it was trained."""


def main() -> int:
    return report(_act)


def _act() -> None:
    arguments = command_line.typed()
    COMMANDS[arguments.command](arguments)


def plan(arguments: argparse.Namespace) -> None:
    """Prints the plans of all members; raises ConfigError where one of them cannot be, after the others are told."""
    from mfa_train.launch.plans import plan_of, whole
    from mfa_train.scaling.ladder import members as ladder
    from mfa_train.scaling.ladder.plan import ladder_plan

    members = ladder.members(arguments.overrides, say=say_aside)
    if ladder.is_ladder(members):
        say(json.dumps(ladder_plan(members), indent=2) if arguments.json else whole(members))
        return
    planned, plans, failures = [], [], []
    for member in members:
        try:
            plans.append(plan_of(member.config))
            planned.append(member)
        except ConfigError as error:
            failures.append(f"{member.label}: {error}" if member.swept else str(error))
    if plans:
        say(json.dumps(plans if len(members) > 1 else plans[0], indent=2) if arguments.json else whole(planned, plans))
    for failure in failures[:-1]:
        say_aside(f"error: {in_one_line(failure)}")
    if failures:
        raise ConfigError(failures[-1])


def prepare(arguments: argparse.Namespace) -> None:
    data = configs.load(arguments.overrides).data
    from mfa_train.data.corpora import prepare_all

    prepare_all(data, say, check=True)


def generate(arguments: argparse.Namespace) -> None:
    for override in arguments.overrides:
        if not override.startswith(("sample.", "seed=", "cache.", SHARED)):
            raise ConfigError(
                f"{override}: expected keys of sample and cache, seed or parallel.context, as sample.temperature=0; "
                "the model is the run's"
            )
        if override.startswith("cache.") and "," in override:
            raise ConfigError(
                f"{override}: text is decoded through one cache: type one, as cache.dtype=fp8; mfa-train cache-loss "
                f"{arguments.run} {override} compares several"
            )
    config = configs.of_run(arguments.run, arguments.overrides)
    prompts = arguments.prompt or ([] if arguments.prompt_file else [config.sample.prompt])
    for prompt in prompts:
        config.sample = replace(config.sample, prompt=prompt)  # which asks whether it can be sampled so
    prompts = [*prompts, *map(_text_of, arguments.prompt_file)]
    configs.require_positive("--num-samples", arguments.num_samples, MOST_SAMPLES)
    if "" in arguments.stop:
        raise ConfigError("--stop '': expected a text, as --stop 'class '; without --stop the document's end ends it")
    from mfa_train.checkpoints.weights import step_of_state
    from mfa_train.data.tokenizer.growing_text import GrowingText

    shared = any(override.startswith(SHARED) for override in arguments.overrides)
    if not shared and (ranks := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(
            f"generate is started in {ranks} processes, and each would tell the same text: type "
            f"{SHARED}{ranks}, and they read the prompts together, or start it with python"
        )
    if shared:
        from mfa_train.training.shared_samples import samples_of_ranks as samples_of
    else:
        from mfa_train.training.closing_sample import samples_from_run as samples_of
    tells, shown = not shared or os.environ.get("RANK", "0") == "0", 0

    def show(texts: list[GrowingText]) -> None:
        nonlocal shown
        say_part(texts[0].text[shown : texts[0].settled])
        shown = texts[0].settled

    options = {"checkpoint": arguments.checkpoint, "num_samples": arguments.num_samples, "stop": arguments.stop}
    if tells and sys.stdout.isatty() and len(prompts) * arguments.num_samples == 1 and not arguments.json:
        try:
            samples = samples_of(config, arguments.run, prompts, **options, on_token=show)
        finally:
            if shown:
                say_part("\n")
    else:
        samples = samples_of(config, arguments.run, prompts, **options)
        if not tells:
            return
        if arguments.json:
            for number, text in enumerate(samples.texts):
                place, sample = divmod(number, arguments.num_samples)
                say(json.dumps({"prompt": prompts[place], "sample": sample, **text.record()}))
        else:
            say_text(f"\n{BETWEEN_SAMPLES}\n".join(text.text for text in samples.texts))
    if samples.tokens:
        say_aside(samples.told())
    window = config.training.stage_of(step_of_state(config, arguments.checkpoint) - 1).sequence_length
    if (longest := samples.cache.length) > window:
        say_aside(f"the longest text has {longest:,} tokens, and the run was trained on windows of {window:,}")


def _text_of(file: Path) -> str:
    """What stands in a --prompt-file, to its last byte. Raises ConfigError."""
    try:
        if not (text := file.read_bytes().decode()):
            raise ConfigError(f"--prompt-file {file}: it is empty: type a file of text, or --prompt '' for none")
        return text
    except OSError as error:
        raise ConfigError(f"--prompt-file {file}: {error.strerror}: type a file of text") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--prompt-file {file}: byte {error.start + 1:,} is no UTF-8: type a file of text in UTF-8"
        ) from error


def cache_loss(arguments: argparse.Namespace) -> None:
    dtypes, rest = ["bf16", "fp8"], []
    for override in arguments.overrides:
        if override.startswith("cache.dtype="):
            dtypes = override.partition("=")[2].split(",")
        elif override.startswith(("data.path=", "data.corpora")):
            rest.append(override)
        else:
            raise ConfigError(
                f"{override}: expected cache.dtype=TYPE[,TYPE], as cache.dtype=bf16,fp8, or data.path=FOLDER where the "
                "corpus has moved; all else is the run's"
            )
    for dtype in dtypes:
        config = configs.of_run(arguments.run, [*rest, f"cache.dtype={dtype}"])  # which asks whether there is one
    if arguments.eval_sequences is not None:
        configs.require_whole("--eval-sequences", arguments.eval_sequences, 0, MOST_WINDOWS)
        config.training.eval_sequences = arguments.eval_sequences
    from mfa_train.training.cache_loss import cache_losses, table

    losses = cache_losses(config, arguments.run, dtypes)
    say(json.dumps([asdict(one) for one in losses], indent=2) if arguments.json else table(losses))


def evaluate(arguments: argparse.Namespace) -> None:
    from mfa_train.evaluation.installed import require_lm_eval

    require_lm_eval("mfa-train evaluate")
    typed = []
    for word in arguments.overrides:
        key, _, value = word.partition("=")
        if key in EVALUATION_KEYS:
            key = f"evaluation.{key}"
        elif word == "tracking=none":
            key, value = "tracking.wandb", "disabled"
        elif not key.startswith(("evaluation.", "tracking.")):
            raise ConfigError(
                f"{word}: expected {', '.join(EVALUATION_KEYS)} or tracking, as tasks=hellaswag,piqa; the model is the "
                "run's"
            )
        if key == "evaluation.tasks" and not value.startswith("["):
            value = f"[{value}]"
        typed.append(f"{key}={value}")
    config = configs.of_run(arguments.run, typed)
    if not config.evaluation.tasks:
        raise ConfigError("evaluation.tasks=[]: no task is named: type tasks=NAME[,NAME], as tasks=hellaswag,piqa")
    from mfa_train.training.evaluate_run import evaluate_run, table

    found = evaluate_run(config, arguments.run, arguments.checkpoint, say_aside)
    if os.environ.get("RANK", "0") == "0":
        say(as_json([asdict(one) for one in found], indent=2) if arguments.json else table(found))


def needle(arguments: argparse.Namespace) -> None:
    config = configs.load(arguments.overrides)
    if config.data.source == "mixture":
        raise ConfigError("data=mixture: a needle is hidden in one corpus: type data=prepared data.path=FOLDER")
    from mfa_train.data.corpora import open_all, prepare_all
    from mfa_train.evaluation.needle import NAME, Needles, numbers, write_needles

    lengths, depths = numbers("--lengths", arguments.lengths), numbers("--depths", arguments.depths)
    asked = Needles(lengths, depths, arguments.documents, arguments.seed)
    corpora = open_all(config.data, say_aside, manifests=prepare_all(config.data, say_aside))
    folder = arguments.out or Path(config.evaluation.tasks_dir) / NAME
    names = write_needles(next(iter(corpora.values())), asked, folder)
    say(f"{len(names)} tasks in {folder}: {', '.join(names)}; mfa-train evaluate RUN tasks={NAME}")


def export(arguments: argparse.Namespace) -> None:
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: expected RUN and options alone; the model is the run's")
    shard_bytes = bytes_of("--shard-bytes", arguments.shard_bytes)
    from mfa_train.export.export import export

    told = export(
        arguments.run,
        arguments.out,
        arguments.checkpoint,
        dtype=arguments.dtype,
        shard_bytes=shard_bytes,
        form=arguments.format,
        verify=arguments.verify,
        tell=say_aside,
    )
    say(told)


def compare(arguments: argparse.Namespace) -> None:
    tracked = [
        word for word in arguments.overrides if word.startswith(("tracking=", "tracking.")) and not os.path.exists(word)
    ]
    tracking = configs.load(tracked).tracking
    try:
        budgets = tuple(float(word) for word in arguments.budget.split(",") if word)
    except ValueError:
        budgets = (-1.0,)
    if not all(0 < budget < float("inf") for budget in budgets):
        raise ConfigError(f"--budget {arguments.budget}: expected FLOPs above 0, as --budget 1e20,1e21")
    from mfa_train.scaling.report.report import write_report
    from mfa_train.scaling.study.gather import gather

    paths = [
        Path(configs.local("RUN", word, "run's folder or CSV file"))
        for word in arguments.overrides
        if word not in tracked
    ]
    by = tuple(key for key in arguments.by.split(",") if key)
    study = gather(paths, arguments.params, arguments.per_byte, by)
    write_report(study, arguments.out, tracking, arguments.reference, budgets)


def pack(arguments: argparse.Namespace) -> None:
    from mfa_train.scaling.study.pack import pack

    paths = [Path(configs.local("RUN", word, "run's folder or archive")) for word in arguments.overrides]
    made = pack(paths, arguments.out, say)
    before = f", in place of one of {made.replaced:,} runs" if made.replaced else ""
    say(f"{arguments.out}: {made.runs:,} runs, {made.files:,} files, {made.unpacked:,} bytes in {made.size:,}{before}")


def launch(arguments: argparse.Namespace) -> None:
    from mfa_train.launch.start import launch

    sys.exit(launch(arguments.overrides, arguments.multirun, arguments.dry_run))


def status(arguments: argparse.Namespace) -> None:
    from mfa_train.launch.status import statuses, table

    say(table(statuses(_runs_dir(arguments.overrides))))


def _runs_dir(words: list[str]) -> Path:
    """The folder that is typed; else runs_dir as train.py would have it, with a machine's own habits
    (configs/local)."""
    if len(words) == 1 and ("=" not in words[0] or os.path.isdir(words[0])):
        return Path(configs.local("RUNS_DIR", words[0]))
    if folders := [word for word in words if "=" not in word]:
        raise ConfigError(f"{folders[0]}: expected RUNS_DIR alone, the folder that holds the runs, or runs_dir=FOLDER")
    return Path(configs.load(words).runs_dir)


def profile(arguments: argparse.Namespace) -> None:
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: expected RUN and options alone, as --steps 3 --ranks 0,7")
    from mfa_train.launch.profile import ask, wait

    configs.require_number("--timeout", arguments.timeout, 0, 1e9, above=True)
    request = ask(arguments.run, arguments.steps, arguments.ranks, arguments.step)
    if arguments.no_wait:
        say(f"asked for: {arguments.run}/profiles/step-N will be there when its ranks have written it")
    else:
        wait(arguments.run, request, arguments.timeout, say, say_aside)


def dashboard(arguments: argparse.Namespace) -> None:
    from mfa_train.tracking.dashboard import dashboard, save, spec

    workspace = dashboard(configs.load(arguments.overrides).tracking)
    say(spec(workspace) if arguments.json else save(workspace))


COMMANDS = {
    "prepare": prepare,
    "generate": generate,
    "cache-loss": cache_loss,
    "evaluate": evaluate,
    "needle": needle,
    "export": export,
    "plan": plan,
    "compare": compare,
    "pack": pack,
    "launch": launch,
    "status": status,
    "profile": profile,
    "dashboard": dashboard,
}


if __name__ == "__main__":
    sys.exit(main())
