"""What can be typed behind `mfa-train`."""

import argparse
from pathlib import Path
from typing import NoReturn

from mfa_train import config as configs
from mfa_train.errors import ConfigError

EMA = "of that state the average of the weights, of a run with training.ema"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help tells what can be typed")


def typed() -> argparse.Namespace:
    """What was: `command`, its name, and what it takes. Raises ConfigError for what it does not."""
    parser = _Parser(prog="mfa-train", description="The doors beside train.py, whose overrides every command takes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("prepare", help="corpus -> tokenizer -> token shards")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    command = commands.add_parser("generate", help="text from a run's weights, decoded through the cache")
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, as runs/mfa-nano")
    command.add_argument("--checkpoint", default="final", metavar="step-N|final", help="which state (default: final)")
    command.add_argument("--ema", action="store_true", help=EMA)
    command.add_argument("--prompt", action="append", help="what the text starts with; typed again, one more text")
    command.add_argument(
        "--prompt-file", action="append", default=[], type=Path, metavar="FILE", help="a prompt of any length, in UTF-8"
    )
    command.add_argument("--num-samples", type=int, default=1, metavar="N", help="texts of each prompt (default: 1)")
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="the text ends before it; may be typed again"
    )
    command.add_argument(
        "--json", action="store_true", help="a line for each: prompt, sample, text behind it, tokens, finish_reason"
    )
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as sample.temperature=0 seed=2 cache.dtype=fp8, and under torchrun parallel.context=2",
    )
    command = commands.add_parser("cache-loss", help="held-out loss of a run through caches of smaller types")
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, as runs/mfa-nano")
    command.add_argument("--eval-sequences", type=int, metavar="N", help="windows; 0: all; default: the run's own")
    command.add_argument("--json", action="store_true", help="the same as JSON")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as cache.dtype=bf16,fp8 (the default), data.path=FOLDER"
    )
    command = commands.add_parser("evaluate", help="scores of a run on tasks of lm-eval: accuracy, bits per byte, …")
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, as runs/mfa-nano")
    command.add_argument(
        "--checkpoint", default="final", metavar="step-N|final", help="of which state (default: final)"
    )
    command.add_argument("--ema", action="store_true", help=EMA)
    command.add_argument("--json", action="store_true", help="the scores as JSON (docs/evaluation.md)")
    command.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as tasks=hellaswag,piqa limit=500 num_fewshot=5 tasks_dir=…"
    )
    command = commands.add_parser("needle", help="tasks: a sentence to be found in long held-out text, by its depth")
    command.add_argument("--lengths", default="256,512,1024", metavar="T[,T]", help="of the prompts, in tokens")
    command.add_argument("--depths", default="0,25,50,75,100", metavar="P[,P]", help="percent of the text before it")
    command.add_argument(
        "--documents", type=int, default=20, metavar="N", help="at each length and depth (default: 20)"
    )
    command.add_argument("--seed", type=int, default=1, metavar="N", help="of texts and keys (default: 1)")
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="to write (default: needle in evaluation.tasks_dir)"
    )
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="which corpus, as train.py has it: data=…")
    command = commands.add_parser("export", help="a run's weights, config and tokenizer, as transformers loads them")
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, as runs/mha-nano")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="to write (default: RUN/export, RUN/export-step-N)")
    command.add_argument("--checkpoint", default="final", metavar="step-N|final", help="which state (default: final)")
    command.add_argument("--ema", action="store_true", help=EMA)
    command.add_argument("--dtype", choices=("bf16", "fp32"), help="of the weights (default: as they were evaluated)")
    command.add_argument("--shard-bytes", default="5GB", metavar="BYTES", help="of one file at most (default: 5GB)")
    command.add_argument(
        "--format",
        default="auto",
        choices=("auto", "hf", "remote"),
        help="hf: as transformers or vLLM has it, or refused; remote: with its own code; auto: hf where there is one",
    )
    command.add_argument("--verify", action="store_true", help="hold its weights against their checksums first")
    command.set_defaults(overrides=[])
    command = commands.add_parser("plan", help="parameters, KV bytes, FLOPs, memory, time and cost, before launch")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="train.py's; several values side by side: attention=mha,mla,mfa model=7b",
    )
    command.add_argument("--json", action="store_true", help="the same as JSON (docs/budget.md)")
    command.add_argument(
        "-m", "--multirun", action="store_true", help="of a sweep's command; all members are planned anyhow"
    )
    command = commands.add_parser("compare", help="scaling laws, verdicts and a report from finished runs")
    command.add_argument(
        "overrides",
        nargs="+",
        metavar="RUN",
        help="run folders, folders or archives of them, a CSV of N, D, loss; tracking's keys, as tracking=none",
    )
    command.add_argument("--out", type=Path, default=Path("report"), help="the report's folder (default: report)")
    command.add_argument("--reference", metavar="VARIANT", help="what the others are held against (default: mha)")
    command.add_argument("--params", default="total", choices=("total", "non_embedding"), help="what N counts")
    command.add_argument("--per-byte", action="store_true", help="losses in bits per byte, across tokenizers")
    command.add_argument(
        "--by", metavar="KEY[,KEY]", default="", help="config keys that make a variant, beside the attention"
    )
    command.add_argument("--budget", metavar="FLOPS[,FLOPS]", default="", help="compute to answer for, as 1e21")
    command = commands.add_parser("pack", help="the small files of runs as one archive, for compare and status")
    command.add_argument(
        "overrides", nargs="+", metavar="RUN", help="run folders, folders or archives of them; no weights are packed"
    )
    command.add_argument("--out", type=Path, required=True, metavar="STUDY.zip", help="the archive to write")
    command = commands.add_parser("launch", help="the same run, or with -m a sweep: cluster=local | slurm | ssh")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="train.py's, as cluster.nodes=16")
    command.add_argument("-m", "--multirun", action="store_true", help="a sweep over the values typed with commas")
    command.add_argument(
        "--dry-run", action="store_true", help="start nothing; tell what would run, cost and be refused"
    )
    command = commands.add_parser("status", help="how the runs of a folder stand: state, step, loss, tokens/s, ETA")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="RUNS_DIR",
        help="the folder, or an archive of pack's; without it runs_dir, as train.py has it",
    )
    command = commands.add_parser("profile", help="a trace of a running run's next steps, by torch's profiler")
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, as runs/mfa-nano")
    command.add_argument("--steps", type=int, default=3, metavar="N", help="how many (default: 3)")
    command.add_argument("--ranks", default="0", metavar="R[,R]", help="which ranks record them (default: 0)")
    command.add_argument("--step", type=int, metavar="N", help="the first (default: the next that can be)")
    command.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="to wait for it at most (default: 600)"
    )
    command.add_argument("--no-wait", action="store_true", help="ask, and tell where it will be")
    command.set_defaults(overrides=[])
    command = commands.add_parser("dashboard", help="the comparison as a workspace in W&B (docs/wandb.md)")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of tracking: entity, project, group")
    command.add_argument("--json", action="store_true", help="print it and save nothing: needs no account")
    arguments, rest = parser.parse_known_args()  # overrides may also follow an option
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unknown option {unknown[0]}")
    arguments.overrides += rest
    return _at_home(arguments)


def _at_home(arguments: argparse.Namespace) -> argparse.Namespace:
    """With ~ expanded in what is a folder, and the state's name with --ema. Raises ConfigError for a URL."""
    for name, told in (("run", "RUN"), ("out", "--out")):
        if (folder := getattr(arguments, name, None)) is not None:
            setattr(arguments, name, Path(configs.local(told, str(folder))))
    if getattr(arguments, "ema", False):
        arguments.checkpoint = f"{arguments.checkpoint.removesuffix('-ema')}-ema"
    return arguments
