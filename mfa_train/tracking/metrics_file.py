"""metrics.jsonl: one JSON object a logged step, the interface between training and comparing."""

import json
from pathlib import Path


class MetricsFile:
    """Appends records, each visible as soon as it is written."""

    def __init__(self, path: Path):
        self.file = path.open("w", encoding="utf-8", buffering=1)

    def log(self, record: dict) -> None:
        self.file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        self.file.close()


def read_metrics(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
