"""What a source's documents were made of: counted while they are read, told when all are."""

from collections import Counter

from mfa_train.data.matching import PassedOver


class Tally:
    """Of one reading of all documents, from the first on."""

    def __init__(self):
        self.documents, self.bytes = 0, 0
        self.files: Counter[str] = Counter()
        """By what they hold."""
        self.noted: list[str] = []
        """Of files that hold something else than their names say."""
        self.empty: Counter[str] = Counter()
        """Documents without text, by why."""
        self.passed_over = PassedOver()

    def told(self) -> list[str]:
        lines = []
        if self.files:
            kinds = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(self.files.items()))
            lines.append(f"files: {self.files.total():,} ({kinds})")
        if self.noted:
            more = f" and {len(self.noted) - 1:,} more" if len(self.noted) > 1 else ""
            lines.append(f"by what they hold, not by their names: {self.noted[0]}{more}")
        lines.append(f"documents: {self.documents:,} ({self.bytes:,} bytes of text)")
        lines += [f"{count:,} {why} left out" for why, count in sorted(self.empty.items())]
        return lines + self.passed_over.told()
