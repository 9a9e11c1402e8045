"""What is out of the ordinary in runs that are compared, and must be said beside what is found of them."""

from collections import Counter

from mfa_train.scaling.study.data_orders import say_orders
from mfa_train.scaling.study.runs import Run


def out_of_the_ordinary(runs: list[Run]) -> list[str]:
    """Of all that were read, those that are left out included: these can be why a variant lacks a seed."""
    used = [run for run in runs if run.excluded is None]
    trained = [run for run in used if run.evaluated_on]
    rows = [run for run in used if not run.evaluated_on]
    notices = []
    if trained and rows:
        notices.append(
            "runs and tables of points stand side by side: that their losses are of one text is taken on trust"
        )
    if len({run.evaluated_on.windows for run in trained if run.evaluated_on}) > 1:
        notices.append(
            "the runs were evaluated on different parts of the held-out text (training.eval_sequences or "
            "training.sequence_length differ)"
        )
    notices += say_orders(runs)
    if damaged := [f"{run.name} {run.damaged_records}" for run in runs if run.damaged_records]:
        notices.append(f"records of metrics.jsonl that cannot be read are missing from the curves: {_few(damaged)}")
    notices += _of_evaluations(used)
    return notices + _of_trained(trained) + _of_rows(rows) + _of_doubles(used)


def _of_evaluations(used: list[Run]) -> list[str]:
    """Of scores on tasks that are not compared."""
    notices = []
    if passed_over := [f"{run.name} {file}" for run in used for file in run.evaluations.passed_over]:
        notices.append(f"files of scores that cannot be read are passed over ({len(passed_over)}): {_few(passed_over)}")
    if earlier := [run.name for run in used if run.evaluations.only_earlier]:
        notices.append(
            f"runs whose scores on tasks are all of earlier states, and are not compared ({len(earlier)}; "
            f"mfa-train evaluate RUN scores the last): {_few(earlier)}"
        )
    return notices


def _of_trained(trained: list[Run]) -> list[str]:
    """Of what made the runs."""
    notices = []
    if unknown := sum(not run.trace.get("data") for run in trained):
        notices.append(
            f"{unknown} of {len(trained)} runs hold no fingerprint of their data (an older version's): they "
            "are taken to be of one corpus where data.path is the same"
        )
    if edited := [run.name for run in trained if run.edited]:
        notices.append(
            f"config.yaml is not what the run was trained with (its hash is not summary.json's): {_few(edited)}"
        )
    if averaged := sum(run.config.get("training.ema") is not None for run in trained):
        notices.append(
            f"{averaged} of {len(trained)} runs kept an average of their weights too (training.ema): compared are the "
            "losses of the weights themselves, val_loss"
        )
    for what, key in (("commits of the code", "code_commit"), ("sets of library versions", "versions")):
        if len(made := {str(version) for run in trained if (version := run.trace.get(key))}) > 1:
            notices.append(f"the runs are of {len(made)} {what} (runs.csv): that they train alike is taken on trust")
    return notices


def _of_rows(rows: list[Run]) -> list[str]:
    """Of the rows of tables."""
    notices = []
    if unseeded := sum(run.seed is None for run in rows):
        notices.append(
            f"{unseeded} of {len(rows)} rows of tables have no seed, and count as independent: of rows that are "
            "checkpoints of one run the intervals are too narrow"
        )
    times = Counter((run.variant, run.params, run.tokens, run.seed, run.loss) for run in rows)
    if many := sum(count > 1 for count in times.values()):
        notices.append(f"{many} rows of the table stand there twice, and count twice in the laws")
    return notices


def _of_doubles(used: list[Run]) -> list[str]:
    """Of several runs where a pair needs one."""
    counts = Counter((run.variant, run.size, run.tokens, run.order) for run in used if run.order)
    if doubled := sorted({variant for (variant, *_), count in counts.items() if count > 1}):
        return [
            f"several runs of one variant, size, budget and data order ({', '.join(doubled[:3])}): each "
            "counts in the laws, their mean in the pairs; --by KEY tells them apart"
        ]
    return []


def _few(named: list[str]) -> str:
    return f"{', '.join(named[:3])}{', …' if len(named) > 3 else ''}"
