"""What a variant can be said to be beside another, and by what measure."""

LEVEL_WITHIN = 0.005
"""Of the loss. Where loss goes as C^-0.05 (Kaplan et al. 2020, arXiv 2001.08361) about a tenth of the compute."""
SAME_CACHE = 1.05
"""Caches that differ by less than this factor are told, and drawn, as one."""
BETTER, WORSE, LEVEL, OPEN = "better", "worse", "level", "open"
