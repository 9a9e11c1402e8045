"""metrics.jsonl on a disk that is full, and cut back to a step."""

import json

import pytest

from mfa_train.tracking.metrics_file import MetricsFile, read_metrics


class FullDisk:
    """A file that takes nothing while `full`."""

    def __init__(self, file):
        self.file, self.full = file, True

    def write(self, content):
        if self.full:
            raise OSError(28, "No space left on device")
        return self.file.write(content)

    def fileno(self):
        return self.file.fileno()


def steps(path):
    return [record["step"] for record in read_metrics(path)]


def test_records_wait_for_room_in_order_and_a_cut_reaches_those_that_wait(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    metrics = MetricsFile(path, say=said.append)
    metrics.log({"step": 1})
    metrics.file = disk = FullDisk(metrics.file)
    for step in (2, 3, 4):
        metrics.log({"step": step})
    metrics.flush()
    assert steps(path) == [1] and len(said) == 1 and "No space left on device" in said[0]
    metrics.cut(2)  # a rollback
    metrics.file, disk.file = disk, metrics.file
    disk.full = False
    metrics.log({"step": 3})
    assert steps(path) == [1, 2, 3] and metrics.logged_to == 4


@pytest.mark.parametrize("from_step, kept", [(0, []), (2, [1, 2]), (9, [1, 2, 3])])
def test_what_lies_behind_the_step_and_a_torn_line_are_cut_off(tmp_path, from_step, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    MetricsFile(path, from_step).log({"step": from_step + 1})
    assert steps(path) == [*kept, from_step + 1]
