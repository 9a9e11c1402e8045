"""Prints tables of a report as README.md has them: losses at the largest token budget, and differences.

    python docs/results/nano/tables.py docs/results/nano/report/fit.json           # in the root of the repository
    python docs/results/nano/tables.py docs/results/nano/report/fit.json mha mla   # pairs that have one of these
"""

import json
import sys
from pathlib import Path

WAITED_FOR = 4.5
"""Training loss, nats per token."""


def main() -> None:
    found, attentions = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:]
    runs = [run for run in found["runs"] if not run["excluded"]]
    sizes = sorted({run["size"] for run in runs}, key=lambda size: min(run["params"] for run in runs if run["size"] == size))
    by_variant: dict[str, list[dict]] = {}
    for run in runs:
        by_variant.setdefault(run["variant"], []).append(run)
    _row("variant", *(f"{size}: loss" for size in sizes), *(f"{size}: tokens to {WAITED_FOR}" for size in sizes))
    _row("---", *["---:"] * 2 * len(sizes))
    for variant, own in by_variant.items():
        largest = [_largest([run for run in own if run["size"] == size]) for size in sizes]
        _row(variant, *(" / ".join(f"{run['loss']:.3f}" for run in of_size) for of_size in largest),
             *(" / ".join(map(_waited, of_size)) for of_size in largest))
    print()
    _row("pair", "units", "loss difference", "p (Holm)", "at equal FLOPs", "p (Holm)", "tokens ×", "KV ×")
    _row("---", *["---:"] * 7)
    for pair in found["verdicts"]:
        if not attentions or {pair["a"].split()[0], pair["b"].split()[0]} & set(attentions):
            _row(f"{pair['a']} − {pair['b']}", pair["units"], _interval(pair["difference"]), _p(pair["p_holm"]),
                 _interval(pair["difference_at_equal_flops"]), _p(pair["p_holm_at_equal_flops"]),
                 f"{pair['token_multiplier']['value']:.2f}" if pair["token_multiplier"] else "–", f"{pair['kv_ratio']:.3g}")


def _row(*cells) -> None:
    print("|", " | ".join(map(str, cells)), "|")


def _interval(value: dict | None) -> str:
    return "–" if value is None else f"{value['value']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _largest(runs: list[dict]) -> list[dict]:
    """Those of the largest budget, by seed."""
    most = max((run["tokens"] for run in runs), default=0)
    return sorted((run for run in runs if run["tokens"] > 0.9 * most), key=lambda run: run["seed"])


def _waited(run: dict) -> str:
    """Tokens at the first record of metrics.jsonl with a training loss below WAITED_FOR."""
    for line in (Path(run["source"]) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("train/loss", WAITED_FOR) < WAITED_FOR:
            return f"{record['tokens'] / 1e3:.0f}K"
    return "–"


if __name__ == "__main__":
    main()
