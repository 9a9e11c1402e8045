"""What the page and the PNG and SVG pictures have in common, so that a variant looks the same in both."""

COLORS = [
    "#3b6ea8",
    "#d1661f",
    "#2f9163",
    "#b03a6e",
    "#8a6bc1",
    "#a07d1c",
    "#2a9bb0",
    "#c2483c",
    "#6b7a2a",
    "#75777d",
    "#16447a",
    "#e59a63",
    "#7cc7a2",
    "#e08bb2",
    "#54308f",
    "#d9c25a",
]
"""Of variants in their order; behind the last they begin again, dashed."""
SAME_CACHE = 1.04
"""Caches that differ by less than this factor stand side by side."""
SHARE = r" [\d.]+ of MHA's KV"
"""In a variant's name, a regular expression: not told where an axis tells the cache."""
