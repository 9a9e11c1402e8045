"""From run folders to an answer: which attention reaches a loss with how much compute, at how many KV bytes per token.

    1. study/: runs are read from their folders or from a CSV, as a stranger's files; what cannot be compared is left
       out, and why; the rest is grouped into variants. Of very many runs some are drawn.
    2. laws/: L(N, D) = E + A/N^alpha + B/D^beta is fitted to the variants with enough runs, and refitted under a
       bootstrap; laws and costs become losses, multipliers and best shapes at a budget.
    3. verdicts/: two variants run by run, the loss over KV bytes, and scores on tasks document by document.
    4. compare.py puts all of it into one object, fit.json; report/ shows it, no more of it than can be opened.

ladder/ is what comes before: which runs make a study that can be compared.
"""
