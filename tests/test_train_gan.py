"""Which classes a GAN learns, and what is said where that cannot be."""

import dataclasses

import pytest

from helpers.config import TrainGan
from helpers.gan.train import learned_classes

SOURCE = {"NORMAL": 9, "Drusen": 8, "DME": 7}


def asked(**changes):
    return dataclasses.replace(TrainGan(conditional=True, class_="Drusen"), **changes)


def test_all_classes_are_learned_unless_some_are_named():
    assert learned_classes(asked(), SOURCE) == "all"
    assert learned_classes(asked(classes="all"), SOURCE) == "all"
    assert learned_classes(asked(classes="normal, DRUSEN"), SOURCE) == "NORMAL+Drusen"
    assert learned_classes(asked(conditional=False, classes="all"), SOURCE) == "Drusen"


def test_a_source_of_one_class_has_no_choice():
    assert learned_classes(asked(classes="NORMAL,DRUSEN"), {"Drusen": 8}) == "all"


@pytest.mark.parametrize("classes", ("NORMAL,CNV,Drusen", "NORMAL,DME"))
def test_what_the_source_lacks_or_the_judge_needs_is_named(classes):
    with pytest.raises(ValueError, match="CNV|Drusen is judged.*OCT_CLASSES"):
        learned_classes(asked(classes=classes), SOURCE)
