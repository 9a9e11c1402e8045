"""What is said of a table's columns that nothing is read from, so that rows of many experiments are not fitted as one
without a word.

A column whose few values each stand in many rows looks like a grouping: it is told what it would have to be named to be
read as one.
"""

from collections.abc import Iterable, Sequence

from mfa_train.scaling.study.plain_files import shown

SEEDS = ("seed", "trial", "repeat", "replica")
"""Parts of a column's name that mean what `seed` does."""
MOST_VALUES = 50
"""Of a grouping: with more, a column is a number or a name of each row."""
ROWS_EACH = 4
"""Rows that a value of a grouping has at least, on average."""
MOST_LOOKED_AT, MOST_NAMED = 100, 8


class UnusedColumns:
    """The columns of `header` that stand at none of the `used` places, and the values they have in the rows so far."""

    def __init__(self, header: Sequence[str], used: Iterable[int]):
        self.used = set(used)
        places = [place for place in range(len(header)) if place not in self.used]
        self.names = {place: shown(header[place].strip()) or f"number {place + 1} (without a name)" for place in places}
        self.values: dict[int, set[str]] = {place: set() for place in places[:MOST_LOOKED_AT]}
        self.rows = 0

    def look_at(self, row: Sequence[str]) -> None:
        """Counts the values of a row; a column of too many is no longer looked at."""
        self.rows += 1
        many = []
        for place, values in self.values.items():
            if place < len(row) and (cell := row[place].strip()):
                values.add(cell)
                if len(values) > MOST_VALUES:
                    many.append(place)
        for place in many:
            del self.values[place]

    def notices(self, known: Iterable[str]) -> list[str]:
        """What to say, with the name that would make a grouping one; `known` are those that some column has already:
        variant, seed."""
        if not self.names:
            return []
        named = list(self.names.values())
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        notices = [f"columns that are not used: {', '.join(named[:MOST_NAMED])}{more}"]
        for place, values in self.values.items():
            if not 2 <= len(values) <= self.rows / ROWS_EACH:
                continue
            name, many = self.names[place], f"has {len(values)} values in {self.rows:,} rows, which are taken as one"
            is_seed = any(word in name.lower() for word in SEEDS)
            if is_seed and "seed" not in known:
                notices.append(f"column {name} {many}: name it seed for pairs and units of one seed")
            elif not is_seed and "variant" not in known:
                notices.append(f"column {name} {many}: name it group for a law of each")
        return notices
