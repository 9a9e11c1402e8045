"""A study in one file: the small files of runs in a zip (`mfa-train pack`), read where they stand as folders are.

`opened` gives what was typed: folders and files of this machine as they are, and of study.zip or study.zip/NAME what
lies in it. What reads runs takes either (`AnyPath`).
"""

from mfa_train.archive.directory import MOST_FILES, Archive, why_no_name
from mfa_train.archive.files import SUFFIX, AnyPath, Archived, Damaged, opened

__all__ = ["MOST_FILES", "SUFFIX", "AnyPath", "Archive", "Archived", "Damaged", "opened", "why_no_name"]
