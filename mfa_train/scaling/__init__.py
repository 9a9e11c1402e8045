"""From run folders to an answer: which attention reaches a loss with how much compute, at how many KV bytes per token.

1. runs.py and points_file.py read runs from their folders or from a CSV, as a stranger's files (plain_files.py,
   curve.py); study.py leaves out what cannot be compared, as runs that are not what their config says (splices.py),
   says why, and groups the rest into variants (variants.py). Of very many some are drawn (drawn.py).
2. law.py fits L(N, D) = E + A/N^alpha + B/D^beta; fits.py decides for which variants the runs are enough, and
   refits under a bootstrap (bootstrap.py).
3. costs.py and frontier.py turn laws into losses, multipliers and optimal shapes at a budget (answers.py) and into
   the loss over KV bytes (kv_frontier.py); paired.py compares two variants run by run.
4. compare.py puts all of it into one object, fit.json; tables.py, plots.py, page_file.py and wandb_report.py show it,
   no more of it than can be opened (bounded.py).
"""
