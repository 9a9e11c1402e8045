"""How variants look on the page and in pictures."""

from mfa_train.scaling.report.colors import HUES, looks_of
from tests.conftest import VARIANTS


def test_no_two_attentions_look_alike():
    looks = looks_of([], [*VARIANTS, *(f"own_{index}" for index in range(2 * len(HUES) - len(VARIANTS)))])
    assert len({look["color"] for look in looks.values()}) == len(looks) == 2 * len(HUES)
