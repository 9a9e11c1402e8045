"""Runs of the real command, as tests from end to end have them."""

from tests.end_to_end.conftest import begin, train  # noqa: F401  # fixtures
