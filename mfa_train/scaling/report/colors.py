"""How a variant looks, the same on the page and in the PNG and SVG pictures: one hue an attention, one lightness a
cache (the larger, the darker). Variants of one attention and one cache lean to either side of its hue."""

import math
from collections import defaultdict

import numpy as np

from mfa_train.scaling.study.runs import Run

HUES = (255, 55, 150, 350, 200, 25, 300, 105)
"""Degrees in OKLCH, of attentions in their order; behind the last they begin again, dashed and AGAIN degrees on."""
AGAIN = 22
LEANS = (0, 13, -13, 24, -24)
CHROMA = 0.13
DARKEST, LIGHTEST, ALONE = 0.44, 0.76, 0.56
ONE_LIGHTNESS = 1.35
"""Shares of the largest cache that differ by less than this factor have one lightness: matched caches differ a little
where shapes are coarse."""


def looks_of(runs: list[Run], variants: list[str]) -> dict[str, dict[str, str]]:
    """{variant: {color, dash}}, of `variants` in their order: a color as #rrggbb, and a stroke-dasharray or none."""
    attention = {run.variant: run.attention or run.variant for run in reversed(runs)}
    attentions = list(dict.fromkeys(attention.get(name, name) for name in variants))
    levels = _levels(_shares(runs))
    steps = max(levels.values(), default=0)
    before: dict[tuple, int] = defaultdict(int)
    found = {}
    for name in variants:
        index, level = attentions.index(attention.get(name, name)), levels.get(name, 0)
        lean = before[index, level]
        before[index, level] += 1
        lightness = DARKEST + (LIGHTEST - DARKEST) * level / steps if steps else ALONE
        hue = HUES[index % len(HUES)] + AGAIN * (index // len(HUES)) + LEANS[lean % len(LEANS)]
        dashed = index >= len(HUES) or lean >= len(LEANS)
        found[name] = {"color": _hexadecimal(lightness, CHROMA, hue), "dash": "5 3" if dashed else "none"}
    return found


def _shares(runs: list[Run]) -> dict[str, float]:
    """Of each variant whose cache is known the share of the largest cache at its sizes (the geometric mean)."""
    caches: dict[tuple, float] = {}
    for run in runs:
        if run.kv_bytes_per_token and run.excluded is None:
            caches[run.variant, run.size] = run.kv_bytes_per_token
    largest: dict = defaultdict(float)
    for (_, size), cache in caches.items():
        largest[size] = max(largest[size], cache)
    logs: dict[str, list[float]] = defaultdict(list)
    for (variant, size), cache in caches.items():
        logs[variant].append(math.log(cache / largest[size]))
    return {variant: math.exp(float(np.mean(own))) for variant, own in logs.items()}


def _levels(shares: dict[str, float]) -> dict[str, int]:
    """0 for the largest caches, 1 for those next to them."""
    levels: dict[str, int] = {}
    level, of_level = -1, math.inf
    for variant, share in sorted(shares.items(), key=lambda one: -one[1]):
        if share * ONE_LIGHTNESS < of_level:
            level, of_level = level + 1, share
        levels[variant] = level
    return levels


def _hexadecimal(lightness: float, chroma: float, hue: float) -> str:
    """sRGB of an OKLCH color (Ottosson 2020, bottosson.github.io/posts/oklab), with as much chroma as sRGB has."""
    a, b = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    while True:
        roots = np.array(
            [
                lightness + chroma * (0.3963377774 * a + 0.2158037573 * b),
                lightness - chroma * (0.1055613458 * a + 0.0638541728 * b),
                lightness - chroma * (0.0894841775 * a + 1.2914855480 * b),
            ]
        )
        linear = _FROM_LMS @ roots**3
        if (linear >= -1e-4).all() and (linear <= 1 + 1e-4).all():
            break
        chroma *= 0.95
    linear = np.clip(linear, 0, 1)
    signs = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * sign):02x}" for sign in signs)


_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
