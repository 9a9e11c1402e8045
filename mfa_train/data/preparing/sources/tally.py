"""What a source's documents were made of: counted while they are read, told when all are."""

from collections import Counter

from mfa_train.data.matching import PassedOver


class Tally:
    """Of one reading of all documents, from the first on."""

    def __init__(self):
        self.documents, self.bytes = 0, 0
        self.files: Counter[str] = Counter()
        """By what they hold."""
        self.unlike: list[str] = []
        """Files that hold something else than their names say: the first, and how many more."""
        self.left_out: Counter[str] = Counter()
        """Documents without text, by why; and files without a document."""
        self.passed_over = PassedOver()

    def is_unlike(self, told: str) -> None:
        self.unlike.append("" if self.unlike else told)

    def told(self) -> list[str]:
        lines = []
        if self.files:
            kinds = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(self.files.items()))
            lines.append(f"files: {self.files.total():,} ({kinds})")
        if self.unlike:
            more = f", and {len(self.unlike) - 1:,} more likewise" if len(self.unlike) > 1 else ""
            lines.append(f"by what they hold, not by their names: {self.unlike[0]}{more}")
        lines.append(f"documents: {self.documents:,} ({self.bytes:,} bytes of text)")
        if self.left_out:
            lines.append("left out: " + ", ".join(f"{why}: {count:,}" for why, count in sorted(self.left_out.items())))
        return lines + self.passed_over.told()
