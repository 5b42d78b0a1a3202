"""Frames follow from their index."""

import numpy as np
import pytest

from al_pbe import sampling
from kdlib import datasets
from kdlib.errors import InputError
from kdlib.geometry.cells import closest_pair


@pytest.fixture(scope="module")
def shipped():
    return {int(atoms.info["frame"]): atoms for atoms in datasets.load("al-pbe")}


@pytest.mark.parametrize("phase", list(sampling.PHASES))
def test_shipped_frames_are_drawn_again(shipped, phase):
    """The first shipped frame of every phase is reproduced to the digits of extxyz.

    The motion of a melt amplifies the rounding of another processor, by now to 3e-4 Angstrom.
    """
    k = min(k for k, atoms in shipped.items() if atoms.info["phase"] == phase and k < 4000)
    again = sampling.configuration(k)
    tolerance = 2e-3 if phase == "liquid" else 1e-6
    np.testing.assert_allclose(again.positions, shipped[k].positions, atol=tolerance)
    np.testing.assert_allclose(again.cell.array, shipped[k].cell.array, atol=1e-9)
    assert again.info["temperature_K"] == shipped[k].info["temperature_K"]


def test_compressed_frames_are_compressed():
    """From 4000 on, 0.60 to 0.88 of the crystal's volume; the phase is drawn as before."""
    atoms = sampling.configuration(4001)
    n_sites = len(atoms) + (atoms.info["phase"] == "vacancy")
    ratio = atoms.get_volume() / n_sites / sampling.VOLUME
    assert 0.60 <= ratio <= 0.88
    assert closest_pair(atoms).distance < 2.6


def test_actively_learned_frames_do_not_follow_from_their_index():
    """An index without a recipe is an error, not another configuration."""
    with pytest.raises(InputError, match="frame 6000: only frames 0 to 5999"):
        sampling.configuration(6000)
