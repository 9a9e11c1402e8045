"""How often intervals of scores hold the truth, and how often something is claimed where there is nothing: the tables
of docs/compare.md, "Scores on tasks". python -m tests.scaling.scores_simulated (about three minutes)"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from mfa_train.scaling.study.evaluations import Documents, Evaluation, Evaluations, Score
from mfa_train.scaling.study.runs import DataOrder, Run
from mfa_train.scaling.verdicts.documents import apart, held_apart
from mfa_train.scaling.verdicts.scores import scores

TRUTH = 0.3
OF_SEVERAL = ("Banerjee", "smaller degrees of freedom", "Satterthwaite", "documents alone")
DRAWN: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda draw, count: draw.normal(size=count),
    "t of 4": lambda draw, count: draw.standard_t(4, count),
    "exponential": lambda draw, count: draw.exponential(size=count) - 1,
    "log-normal": lambda draw, count: np.exp(draw.normal(size=count)) - np.exp(0.5),
}


def of_several_seeds(
    seeds: int, sizes: int, documents: int, deviations: tuple[float, float, float], draws: int
) -> dict[str, tuple[float, float]]:
    """Of each interval: how often it holds the truth, and its half width on average. Standard deviations are of seeds,
    of documents, and of what is neither."""
    draw = np.random.default_rng([seeds, sizes, documents])
    held, half = dict.fromkeys(OF_SEVERAL, 0), dict.fromkeys(OF_SEVERAL, 0.0)
    of_seeds, of_documents, rest = deviations
    for _ in range(draws):
        values = [
            TRUTH
            + draw.normal(0, of_seeds, (seeds, 1))
            + draw.normal(0, of_documents, (1, documents))
            + draw.normal(0, rest, (seeds, documents))
            for _ in range(sizes)
        ]
        found, by_seed = apart(values[0], False), [one.mean(1) for one in values]
        free, alone = (seeds - 1) * sizes, documents - 1
        part = sum(((one - one.mean()) ** 2).sum() for one in by_seed) / free / seeds
        both = found.of_documents + part
        welch = both**2 / (found.of_documents**2 / alone + part**2 / free)
        told = held_apart(found, by_seed)["difference"]
        widths = (
            (told["high"] - told["low"]) / 2,
            stats.t.ppf(0.975, free) * both**0.5,
            stats.t.ppf(0.975, welch) * both**0.5,
            stats.t.ppf(0.975, alone) * found.of_documents**0.5,
        )
        for name, width in zip(OF_SEVERAL, widths):
            held[name] += abs(found.mean - TRUTH) <= width
            half[name] += width
    return {name: (held[name] / draws, half[name] / draws) for name in OF_SEVERAL}


def of_documents(kind: str, documents: int, draws: int) -> tuple[float, float]:
    """How often Student's interval and that of the percentile bootstrap hold the truth."""
    draw, student, bootstrap = np.random.default_rng([documents, *kind.encode()]), 0, 0
    for _ in range(draws):
        values = DRAWN[kind](draw, documents)
        told = held_apart(apart(values[None], False), [])["difference"]
        student += told["low"] <= 0 <= told["high"]
        low, high = np.percentile(values[draw.integers(0, documents, (400, documents))].mean(1), [2.5, 97.5])
        bootstrap += low <= 0 <= high
    return student / draws, bootstrap / draws


def claimed(seeds: int, sizes: int, spread: float, draws: int, variants: int = 3, tasks: int = 5) -> list[float]:
    """Of cells in which no variant differs from another, how many claim something: of bits per byte, of accuracies, of
    the best; `spread` is the standard deviation that a seed makes, in bits per byte and in a tenth of a logit."""
    draw, counts = np.random.default_rng([seeds, sizes, int(1000 * spread)]), np.zeros(3)
    for _ in range(draws):
        runs = [run for size in range(sizes) for run in _runs(draw, f"size {size}", seeds, spread, variants, tasks)]
        rows, _ = scores(runs, "variant 0")
        for size in {row["size"] for row in rows}:
            own = [row for row in rows if row["size"] == size]
            said = [{row["said"] for row in own if row["compared"] == which} for which in (True, False)]
            counts += [*(bool(words & {"better", "worse"}) for words in said), any(row["best"] for row in own)]
    return list(counts / draws / sizes)


def _runs(draw: np.random.Generator, size: str, seeds: int, spread: float, variants: int, tasks: int) -> list[Run]:
    documents, found = 300, []
    hard = draw.normal(0, 0.5, (tasks, documents))
    for variant in range(variants):
        taste = draw.normal(0, 0.1, (tasks, documents))
        for seed in range(seeds):
            by_task = {}
            for task in range(tasks):
                noise, logit = draw.normal(0, 0.15, documents), draw.normal(0, 10 * spread)
                bits = 2 + hard[task] + taste[task] + draw.normal(0, spread) + noise
                right = (draw.random(documents) < 1 / (1 + np.exp(2 * hard[task] + logit))).astype(np.int8)
                by_task[f"task {task}"] = Evaluation(
                    Documents("1", 0, None, documents, str(task)),
                    (
                        Score("bits_per_byte", float(bits.mean()), None, False, bits),
                        Score("acc", float(right.mean()), None, True, right),
                    ),
                )
            name = f"variant {variant}"
            run = Run(f"{name} {size} {seed}", "", variant=name, params=1e6, tokens=1e9, seed=seed, size=size)
            run.order, run.evaluations = DataOrder("", None, seed, 256), Evaluations(by_task, [], False)
            found.append(run)
    return found


def main() -> None:
    print("intervals of several seeds: how often they hold the truth, and half their width")
    for seeds, sizes, documents, deviations in (
        (2, 1, 100, (0.0, 1.0, 0.3)),
        (2, 1, 1000, (0.05, 1.0, 0.3)),
        (2, 1, 1000, (0.2, 1.0, 1.0)),
        (3, 1, 1000, (0.05, 1.0, 0.3)),
        (3, 1, 1000, (0.2, 1.0, 1.0)),
        (2, 3, 1000, (0.05, 1.0, 0.3)),
        (3, 3, 1000, (0.2, 1.0, 1.0)),
    ):
        found = of_several_seeds(seeds, sizes, documents, deviations, 4000)
        told = " | ".join(f"{held:.3f}, ±{half:.3f}" for held, half in found.values())
        print(
            f"| {seeds} × {sizes}, {documents:,} | {', '.join(f'{one:g}' for one in deviations)} | {told} |", flush=True
        )
    print("intervals of documents alone: Student's, percentile bootstrap")
    for kind in DRAWN:
        of = [of_documents(kind, documents, 2000) for documents in (50, 200, 1000)]
        print(f"| {kind} | {' | '.join(f'{student:.3f}, {bootstrap:.3f}' for student, bootstrap in of)} |", flush=True)
    print("cells with a claim where there is nothing: bits per byte, accuracies, best")
    for seeds, sizes, spread in ((1, 1, 0.0), (1, 1, 0.02), (2, 1, 0.02), (3, 1, 0.02), (2, 3, 0.02), (2, 3, 0.1)):
        told = " | ".join(f"{share:.3f}" for share in claimed(seeds, sizes, spread, 300))
        print(f"| {seeds} × {sizes} | {spread:g} | {told} |", flush=True)


if __name__ == "__main__":
    main()
