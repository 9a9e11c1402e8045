"""A ladder: every variant of a study at every size, token budget and seed, as members of one sweep.

1. A rung is a size. Its token budgets follow from the parameters, or the FLOPs, of the reference at that size, so
   that all variants get the same tokens in the same order.
2. Each variant is matched to the reference's parameters and to shares of the KV cache of the size's MHA. What has no
   such shape is left out, and said.
3. Of the budgets of one variant, size and seed the largest is a run of its own. A WSD schedule is constant until it
   decays, so the smaller ones are what that run was up to where they would begin to decay: they branch off there,
   and are, number for number, the runs that would have been trained from the start.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfa_train import config as configs
from mfa_train.budget.match import matched
from mfa_train.budget.shape import Shape, measure
from mfa_train.config import RESUME, Config, LadderConfig, Member, RungConfig
from mfa_train.config.sweeps import chosen_sweep
from mfa_train.errors import ConfigError
from mfa_train.training.checkpoints.folders import folder_of, step_of
from mfa_train.training.steps.schedule import decay_start

OWN = ("attention", "model", "seed")
"""Keys that the ladder goes over itself: typed, they choose among what it has."""
NOT_TYPED = {
    "training.steps": "sweep.ladder.tokens_per_parameter=[…]",
    "training.tokens": "sweep.ladder.tokens_per_parameter=[…]",
    "match.kv_bytes_per_token": "sweep.ladder.kv_shares=[…]",
    "resume": "it without sweep for one run",
}
Say = Callable[[str], None]


def members(overrides: Sequence[str], say: Say = print) -> list[Member]:
    """The members of the sweep that `overrides` describe: a ladder's, seed after seed, each run before its branches; or
    any other's.

    `say` is told what is left out. Raises ConfigError.
    """
    base = configs.members(overrides)
    if base[0].config.sweep.ladder is None:
        return base
    seeds = list(dict.fromkeys(one.config.seed for one in base))
    cells = [
        (number + seeds.index(one.config.seed), cell)
        for one in base
        for number, cell in _Ladder(one, overrides, say).cells()
    ]
    found = [member for _, cell in sorted(cells, key=lambda cell: cell[0]) for member in cell]
    folders: dict[Path, Member] = {}
    for member in found:
        if folders.setdefault(member.config.run_dir, member) is not member:
            raise ConfigError(
                f"{' '.join(member.swept)} and another member of the ladder would both be the run "
                f"{member.config.run_dir}: two of its budgets or shares are nearly the same"
            )
    return found


def is_ladder(members: Sequence[Member]) -> bool:
    return any(choice.startswith("variant=") for choice in members[0].swept)


def branches_at(config: Config) -> int:
    """The step after which a ladder's member branches off another; 0 where it starts from nothing."""
    return 0 if config.resume in RESUME else step_of(Path(config.resume))


@dataclass(frozen=True)
class _Budget:
    """Of one rung, the largest first."""

    steps: int
    tokens: int


class _Ladder:
    def __init__(self, base: Member, overrides: Sequence[str], say: Say):
        self.base, self.say = base, say
        self.ladder: LadderConfig = base.config.sweep.ladder
        typed = {word.split("=")[0].lstrip("+") for word in overrides}
        self.typed = {key: _typed_value(base.config, key) for key in OWN if key in typed}
        self.beside = [choice for choice in base.swept if choice.split("=")[0] not in OWN]
        self.words = [
            word
            for word in base.overrides
            if word.split("=")[0] not in (*OWN, "name", "tracking.group")
            and not word.lstrip("+").startswith("sweep.ladder")
        ]
        self.name = base.config.name if any(word.startswith("name=") for word in overrides) else None
        self.group = base.config.tracking.group or chosen_sweep(overrides) or "ladder"
        self.for_all = {
            key for key in ("seeds", "tokens_per_parameter", "flops", "batch_size") if f"sweep.ladder.{key}" in typed
        }
        """Typed for the ladder: they go before the rungs' own."""
        self.sets_shares = "sweep.ladder.kv_shares" in typed
        self.sets_rate, self.sets_batch = "optimizer.lr" in typed, "training.batch_size" in typed

    def cells(self) -> Iterator[tuple[int, list[Member]]]:
        """The runs of each variant, size and seed, with the seed's number."""
        for key, instead in NOT_TYPED.items():
            if any(word.startswith(f"{key}=") for word in self.words):
                raise ConfigError(f"{key}: a ladder sets it itself: type {instead}")
        for rung in self._rungs():
            seeds = [self.typed["seed"]] if "seed" in self.typed else rung.seeds or self.ladder.seeds
            for shaped in self._shaped(rung):
                for number, seed in enumerate(seeds):
                    yield number, self._cell(rung, *shaped, seed)

    def _rungs(self) -> list[RungConfig]:
        rungs = [replace(rung, **dict.fromkeys(self._replaced())) for rung in self.ladder.rungs] or [
            RungConfig(self.base.config.model.name)
        ]
        if "model" not in self.typed:
            return rungs
        chosen = [rung for rung in rungs if rung.model == self.typed["model"]]
        if not chosen:
            raise ConfigError(
                f"model={self.typed['model']}: no rung of the ladder has it; it has "
                f"{', '.join(rung.model for rung in rungs)}: type one of them, or sweep=ladder model=…"
            )
        return chosen

    def _replaced(self) -> set[str]:
        lengths = {"tokens_per_parameter", "flops"}
        return self.for_all | (lengths if self.for_all & lengths else set())

    def _shaped(self, rung: RungConfig) -> Iterator[tuple[str, float | None, Config, list[str]]]:
        """Every variant and share of the rung that has a shape: its config before matching, and its overrides."""
        chosen = {
            name: dict(keys)
            for name, keys in self.ladder.variants.items()
            if self.typed.get("attention") in (None, keys.get("attention", name))
        }
        if not chosen:
            raise ConfigError(
                f"attention={self.typed['attention']}: no variant of the ladder has it; it has "
                f"{', '.join(self.ladder.variants)}"
            )
        for name, keys in chosen.items():
            attention, shares = keys.pop("attention", name), keys.pop("kv_shares", self.ladder.kv_shares)
            if self.sets_shares and shares:
                shares = self.ladder.kv_shares
            plain = [
                f"model={rung.model}",
                f"attention={attention}",
                *(f"{key}={configs.written(value)}" for key, value in keys.items()),
            ]
            for share in shares or [None]:
                words = list(plain)
                config = configs.load([*self.words, "sweep.ladder=null", *words])
                if share is not None:
                    config.match.kv_bytes_per_token = int(_full_cache(config) * share)
                    words.append(f"match.kv_bytes_per_token={config.match.kv_bytes_per_token}")
                try:
                    matched(config)
                except ConfigError as error:
                    self.say(f"left out: {name} of model={rung.model}: {error}")
                    continue
                yield name, share, config, words

    def _cell(
        self, rung: RungConfig, variant: str, share: float | None, config: Config, words: list[str], seed: int
    ) -> list[Member]:
        """The run of the largest budget, and those of the others."""
        reference = self._reference(config)
        sequence = config.training.sequence_length
        tokens = sorted(self._tokens(rung, reference, sequence), reverse=True)
        batch = config.training.batch_size
        if not self.sets_batch:
            batch = rung.batch_size or (
                _step_law_batch(tokens[0], sequence) if self.ladder.batch_size == "step_law" else batch
            )
        rate = config.optimizer.lr if self.sets_rate else self._rate(variant, share, config, reference, tokens[0])
        budgets = [
            _Budget(steps := max(1, round(amount / (batch * sequence))), steps * batch * sequence) for amount in tokens
        ]
        starts = [decay_start(config.schedule, budget.steps) for budget in budgets]
        branching = self.ladder.branches and len(budgets) > 1
        if branching and config.schedule.name != "wsd":
            raise ConfigError(
                f"schedule={config.schedule.name}: budgets can't branch off one run unless it is constant "
                "between warmup and decay: type schedule=wsd, or sweep.ladder.branches=false"
            )
        parts = [
            self.name,
            variant,
            config.match.kv_bytes_per_token and f"kv{config.match.kv_bytes_per_token}",
            rung.model,
            *map(configs.as_name, self.beside),
        ]
        found: list[Member] = []
        for number, (budget, start) in enumerate(zip(budgets, starts)):
            name = configs.cut("-".join([*filter(None, parts), _short(budget.tokens), f"seed{seed}"]))
            branch = branching and number > 0
            set_here: dict[str, Any] = {
                "seed": seed,
                "training.steps": budget.steps,
                "training.batch_size": batch,
                "optimizer.lr": rate,
                "name": name,
                "tracking.group": self.group,
            }
            if branch:
                set_here["resume"] = str(folder_of(found[0].config.run_dir / "checkpoints", start))
            elif branching:
                set_here["checkpoint.at_steps"] = sorted(set(starts[1:]))
            swept = [
                f"model={rung.model}",
                f"variant={variant}",
                f"kv_share={share}",
                f"tokens={budget.tokens}",
                f"seed={seed}",
                *self.beside,
            ]
            found.append(
                Member(
                    [choice for choice in swept if not choice.endswith("=None")],
                    [
                        *self.words,
                        "sweep.ladder=null",
                        *words,
                        *(f"{key}={configs.written(value)}" for key, value in set_here.items()),
                    ],
                    _with(config, set_here),
                    found[0].config.run_dir if branch else None,
                )
            )
        return found

    def _reference(self, config: Config) -> Shape:
        name = config.match.reference or "mha"
        return measure(config.model, configs.default_attention(name, config.model))

    def _tokens(self, rung: RungConfig, reference: Shape, sequence: int) -> list[float]:
        if flops := rung.flops or (self.ladder.flops if rung.tokens_per_parameter is None else None):
            return [amount / reference.train_flops_per_token(sequence) for amount in flops]
        if multiples := rung.tokens_per_parameter or self.ladder.tokens_per_parameter:
            return [multiple * reference.params for multiple in multiples]
        raise ConfigError(
            f"sweep.ladder: how long model={rung.model} is trained is not said: type "
            "sweep.ladder.tokens_per_parameter=[5,10,20], or sweep.ladder.flops=[1e18,1e19]"
        )

    def _rate(self, variant: str, share: float | None, config: Config, reference: Shape, tokens: float) -> float:
        rate = config.optimizer.lr
        if self.ladder.learning_rate == "step_law":
            rate = step_law_learning_rate(reference.params - reference.embedding_params, tokens)
        factors = self.ladder.learning_rate_factors
        return float(f"{rate * factors.get(f'{variant}@{share:g}' if share else variant, factors.get(variant, 1)):.3g}")


def step_law_learning_rate(non_embedding_params: float, tokens: float) -> float:
    """Peak learning rate by arXiv 2503.04715, equation 1."""
    return 1.79 * non_embedding_params**-0.713 * tokens**0.307


def step_law_batch_tokens(tokens: float) -> float:
    """Tokens in a step by arXiv 2503.04715, equation 1."""
    return 0.58 * tokens**0.571


def _step_law_batch(tokens: float, sequence: int) -> int:
    """Sequences: the nearest power of two."""
    return 2 ** max(0, round(math.log2(step_law_batch_tokens(tokens) / sequence)))


def _full_cache(config: Config) -> int:
    """Bytes per token of the size's MHA."""
    model = config.model
    return 2 * model.num_hidden_layers * model.num_attention_heads * model.head_dim * config.plan.cache_bytes


def _short(tokens: int) -> str:
    """1.4M of 1,400,832."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return str(tokens)


def _with(config: Config, values: dict[str, Any]) -> Config:
    """A copy with the values of dotted keys; what is derived from them elsewhere stays."""
    tree = replace(config)
    for key, value in values.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            setattr(node, group, dataclasses.replace(getattr(node, group)))
            node = getattr(node, group)
        setattr(node, last, value)
    if "training.steps" in values:
        tree.training.tokens = None
    return tree


def _typed_value(config: Config, key: str) -> Any:
    return {"attention": config.attention["name"], "model": config.model.name, "seed": config.seed}[key]
