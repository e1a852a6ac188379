"""Colours of values: classes at round bounds."""

from __future__ import annotations

import numpy as np
import pytest

from weathermixer.verification.figures.colour_classes import (
    ColourClasses,
    classes_of_errors,
    classes_of_states,
)


@pytest.mark.parametrize("scale", [1e-6, 3.7, 5e4])
def test_classes_are_round_and_cover_the_values(scale: float) -> None:
    values = scale * np.random.default_rng(1).normal(size=5000)
    for classes in (classes_of_states(values, "temperature"), classes_of_errors(values)):
        assert 8 <= len(classes.bounds) <= 24
        assert len(classes.colours) == len(classes.bounds) + 1
        assert list(classes.bounds) == sorted(classes.bounds)
        assert classes.bounds[0] > values.min()
    errors = classes_of_errors(values).bounds
    assert errors == tuple(-bound for bound in reversed(errors))


def test_fields_that_do_not_vary_have_classes_too() -> None:
    assert classes_of_states(np.full(9, 3.0), "temperature").bounds
    assert classes_of_states(np.zeros(9), "temperature").bounds
    assert classes_of_errors(np.zeros(9)).bounds


def test_labels_are_few_and_pair_up_about_zero() -> None:
    classes = ColourClasses(tuple(range(-6, 7)), ("#000000",) * 14)
    labels = classes.labels
    assert 2 <= sum(map(bool, labels)) <= 8
    assert [label.lstrip("−") for label in labels] == [
        label.lstrip("−") for label in reversed(labels)
    ]
