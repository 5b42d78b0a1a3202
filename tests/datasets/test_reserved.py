"""Information of frames under names that this package reads for itself."""

import numpy as np
import pytest

from kdlib import datasets
from kdlib.datasets.labels import labeled
from kdlib.errors import InputError

ODD = [
    ("frame", np.arange(3), "text or a number, since .* the identity of the frame"),
    ("frame", True, "text or a number"),
    ("frame", {"a": 1}, "text or a number"),
    (
        "part",
        "surface",
        "one of train, valid, test, compressed, transfer, since .* the part of the split",
    ),
    ("part", 3, "one of train, valid"),
    ("part", np.array(["train", "test"]), "one of train, valid"),
    (
        datasets.WEIGHT,
        "high",
        "0 or a number between 1e-12 and .*, since .* the weight of the frame",
    ),
    (datasets.WEIGHT, -1.0, "0 or a number between"),
    (datasets.WEIGHT, np.nan, "0 or a number between"),
    (datasets.WEIGHT, np.inf, "0 or a number between"),
    (datasets.WEIGHT, 1e300, "0 or a number between"),
    (datasets.WEIGHT, 1e-300, "0 or a number between"),
    (datasets.WEIGHT, np.ones(2), "0 or a number between"),
    (datasets.WEIGHT, True, "0 or a number between"),
    ("phase", np.zeros((2, 2)), "text or a number, since .* the phase in tables and figures"),
    ("config_type", ["a"], "text or a number"),
    ("temperature_K", "300 K", "a number, since .* the temperature in figures"),
]


def with_info(frames, **info):
    """Copies of labeled frames, the last with more information."""
    copies = [atoms.copy() for atoms in frames]
    for copy, atoms in zip(copies, frames, strict=True):
        copy.calc = atoms.calc
    copies[-1].info |= info
    return copies


@pytest.mark.parametrize(("name", "value", "rule"), ODD)
def test_information_of_another_kind_is_refused_by_name(alloy, name, value, rule):
    """Reading, checking and dividing refuse it in one sentence that names it and says what for."""
    frames = with_info(alloy[:3], **{name: value})
    sentence = rf"its '{name}' is [^\n]*, must be {rule}[^\n]*rename it$"
    with pytest.raises(InputError, match=sentence):
        labeled(frames[-1])
    with pytest.raises(InputError, match=f"set: frame 2: {sentence}"):
        datasets.check(frames, "set")
    with pytest.raises(InputError, match=f"split: frame 2: {sentence}"):
        datasets.split(frames)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frame", "a/b:3"),
        ("frame", np.int64(7)),
        ("part", "train"),
        ("part", ""),
        (datasets.WEIGHT, 0),
        (datasets.WEIGHT, np.float32(2.5)),
        (datasets.WEIGHT, 1e-12),
        ("config_type", 3),
        ("temperature_K", 300.0),
        ("molten", "yes"),
    ],
)
def test_information_of_its_kind_is_kept(alloy, name, value):
    """Ordinary values pass, and so does whatever stands under other names."""
    frame = labeled(with_info(alloy[:1], **{name: value})[0]).frame
    datasets.check([frame], "set")
    assert frame.info[name] == value


@pytest.mark.parametrize("name", ["frame", "part", datasets.WEIGHT, "phase", "temperature_K"])
def test_a_reserved_name_without_a_value_is_nothing(alloy, name):
    """None, as extxyz writes it for a missing value, has the effect of no such information."""
    plain, empty = with_info(alloy), with_info(alloy, **{name: None})
    one, other = datasets.split(plain), datasets.split(empty)
    assert one.sha256 == other.sha256
    assert datasets.loss_weight(empty[-1]) is None
    coverages = [datasets.coverage(f, s) for f, s in ((plain, one), (empty, other))]
    assert coverages[0].identical(coverages[1])
