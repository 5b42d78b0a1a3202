"""Labeling of many frames: resumable, in parallel, and honest about what failed."""

import hashlib
import io
import json
import lzma
import os
import shutil

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from al_pbe import campaign, packing
from kdlib import datasets


def sample(k: int) -> Atoms:
    """A small rattled crystal; number 902 has a pair too close."""
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.05, seed=k)
    atoms.info.update(frame=k, phase="fcc", temperature_K=300.0)
    if k == 902:
        atoms.positions[1] = atoms.positions[0] + [1.0, 0, 0]
    return atoms


def label(atoms: Atoms) -> Atoms:
    """EMT in the place of DFT; number 903 does not converge."""
    if atoms.info["frame"] == 903:
        raise RuntimeError("Did not converge!")
    working = atoms.copy()
    working.calc = EMT()
    labeled = atoms.copy()
    labeled.calc = SinglePointCalculator(
        labeled, energy=working.get_potential_energy(), forces=working.get_forces()
    )
    return labeled


def test_one_file_per_frame_and_no_frame_twice(tmp_path, terminal):
    """A second call finds everything done; frames that fail or are too close are skipped aloud."""
    written = campaign.run(range(900, 905), tmp_path, sample, label)
    assert [path.name for path in written] == [f"frame_00{k}.extxyz" for k in (900, 901, 904)]
    said = terminal()
    assert "902 is left out: two atoms are 1.00" in said
    assert "903 is left out: RuntimeError: Did not converge!" in said
    atoms = ase.io.read(written[0])
    np.testing.assert_allclose(atoms.get_forces(), label(sample(900)).get_forces(), atol=1e-7)
    assert campaign.run([900, 901, 904], tmp_path, sample, label) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in written)


def test_shipped_frames_are_not_labeled_again(tmp_path):
    """Frame 0 is in the package."""
    assert campaign.run([0, 900], tmp_path, sample, label) == [tmp_path / "frame_00900.extxyz"]


def test_claims_keep_processes_apart(tmp_path):
    """A frame claimed by a living process is skipped; that of a dead one is taken over."""
    living, dead = (tmp_path / f".frame_00{k}.claim" for k in (900, 901))
    living.write_text(str(os.getppid()))
    dead.write_text("4194305")  # beyond the largest process number of Linux
    assert campaign.run([900, 901], tmp_path, sample, label) == [tmp_path / "frame_00901.extxyz"]
    assert living.exists()
    assert not dead.exists()


@pytest.mark.parametrize(("k", "part"), [(900, "test"), (5900, "transfer"), (6900, "train")])
def test_collected_frames_know_their_part(tmp_path, k, part):
    """New frames are held out, large cells test transfer, actively learned ones only train."""
    campaign.run([k], tmp_path, sample, label)
    frames = {int(a.info["frame"]): a for a in campaign.collected(tmp_path)}
    assert frames[k].info.get("part") == part
    assert min(frames) == 0
    assert list(frames) == sorted(frames)


def test_packed_frames_come_back(tmp_path):
    """A new version holds the shipped frames and the new ones, with the checksum of its card."""
    data = tmp_path / "data"
    shutil.copytree(packing.DATA, data)
    campaign.run([900], tmp_path / "labels", sample, label)
    n_frames = packing.pack(tmp_path / "labels", "next", data)
    assert n_frames == len(datasets.load("al-pbe")) + 1
    card = json.loads((data / "al-pbe.json").read_text())
    packed = (data / card["file"]).read_bytes()
    assert card["version"] == "next"
    assert card["sha256"] == hashlib.sha256(packed).hexdigest()
    text = lzma.decompress(packed).decode()
    back = {a.info["frame"]: a for a in ase.io.read(io.StringIO(text), ":", format="extxyz")}
    np.testing.assert_allclose(back[900].get_forces(), label(sample(900)).get_forces(), atol=1e-7)
