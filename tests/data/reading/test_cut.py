"""Growing lengths leave the order of samples as it is: windows of its length are cut, and no token is lost."""

import numpy as np

from mfa_train.data.reading.cut import cut
from mfa_train.data.reading.documents import find_documents
from tests.data.reading.test_batches import Prepared, batches


def test_a_shorter_stage_reads_the_windows_of_a_run_of_one_length_cut_by_hand(tmp_path):
    corpora = {"a": Prepared(tmp_path / "a", [500, 300]), "b": Prepared(tmp_path / "b", [200])}
    windows = batches(corpora, 4, sequence_length=12).of(20)
    by_hand = [window[begin : begin + 4 + 1] for window in windows for begin in (0, 4, 8)]
    found = cut(windows, 4)
    assert found.dtype == windows.dtype and np.array_equal(found, by_hand)
    assert np.array_equal(found[:, :-1].ravel(), windows[:, :-1].ravel())
    assert np.array_equal(found[:, 1:].ravel(), windows[:, 1:].ravel())
    assert cut(windows, 12) is windows


def test_documents_begin_anew_with_each_sequence_that_a_window_is_cut_into():
    window = np.array([[5, 0, 6, 7, 8, 9, 0, 4, 3]])
    assert find_documents(cut(window, 4)[:, :-1], 0).positions.tolist() == [[0, 0, 1, 2], [0, 1, 0, 1]]
