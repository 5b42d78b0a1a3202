"""Reports about training: species, sizes and scales of the data, and trainings that end early."""

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, hipnn, teachers, training
from kdlib.errors import InputError
from kdlib.hipnn import HipnnConfig
from kdlib.hipnn.calculator import HipnnCalculator
from kdlib.hipnn.potential import WEIGHTS
from kdlib.training import loop, losses
from kdlib.training.runs import CHECKPOINT

COPPER = HipnnConfig(8, 6, 1, species=("Cu",), cutoff=5.0, soft_max=4.5)


def test_a_species_in_no_training_frame_is_named(tmp_path):
    """A species that only frames of validation have is an error that names it.

    After ACEsuit/mace#605 and ACEsuit/mace#807.
    """
    rng, frames = np.random.default_rng(0), []
    for k in range(20):
        atoms = Atoms("CuAu" if k == 19 else "Cu2", [[0, 0, 0], [2.4 + 0.02 * k, 0, 0]])
        force = rng.normal(size=3) * 0.1
        energy = -3.0 if k < 19 else -9.0
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.array([force, -force]))
        part = "valid" if k >= 16 else "test" if k >= 13 else "train"
        atoms.info.update(frame=k, part=part)
        frames.append(atoms)
    species = datasets.species(frames)
    config = HipnnConfig(8, 6, 1, species=species, cutoff=5.0, soft_max=4.5)
    settings, split = training.TrainingConfig(max_epochs=2), datasets.split(frames)
    with pytest.raises(InputError, match="Au"):
        training.fit(config, settings, losses.LossWeights(), frames, split, tmp_path / "run")


@pytest.mark.parametrize("symbol", ["X", "D", "Al1", "Vac"])
def test_what_is_no_element_is_no_species(symbol, tmp_path, refusal):
    """A dummy atom (ghost, marker of a vacancy) is refused; deuterium is hydrogen or refused.

    After lab-cosmo/librascal#288.
    """
    path = tmp_path / "frames.xyz"
    path.write_text(
        '2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-7.2 pbc="F F F"\n'
        f"{symbol} 0 0 0 0.05 0 0\nAl 0 2.05 2.05 -0.05 0 0\n"
    )
    assert refusal(datasets.load, path) or "X" not in datasets.species(datasets.load(path))


def shifted(frames: list[Atoms], constant: float) -> list[Atoms]:
    """Frames with a constant (eV) added to the energy of each atom."""
    found = []
    for atoms in frames:
        other = atoms.copy()
        energy = atoms.calc.results["energy"] + constant * len(atoms)
        other.calc = SinglePointCalculator(other, **atoms.calc.results | {"energy": energy})
        found.append(other)
    return found


@pytest.fixture(scope="module")
def fitted(aluminum, tmp_path_factory) -> Callable[[float], training.Run]:
    """Return a function that trains on energies with this constant (eV) added, once for each."""
    runs = {}

    def run(constant: float) -> training.Run:
        if constant not in runs:
            frames = shifted(aluminum, constant)
            runs[constant] = training.fit(
                HipnnConfig(16, 8, 1),
                training.TrainingConfig(max_epochs=15, batch_size=8),
                losses.LossWeights(),
                frames,
                datasets.split(frames),
                tmp_path_factory.mktemp("fitted"),
            )
        return runs[constant]

    return run


@pytest.mark.parametrize("constant", [0.0, -6600.0, -25560.0])
def test_a_model_of_all_electron_energies_has_forces_that_are_their_gradient(
    constant, fitted, aluminum
):
    """After a training on energies of tens of keV an atom, F = -dE/dx along a random direction.

    After libAtoms/QUIP#263 and ACEsuit/mace#581.
    """
    potential = fitted(constant).potential
    atoms = aluminum[0].copy()
    atoms.calc = HipnnCalculator(potential)
    forces, start, step = atoms.get_forces(), atoms.positions.copy(), 0.01
    direction = np.random.default_rng(0).normal(size=forces.shape)
    direction /= np.linalg.norm(direction)
    energies = []
    for distance in (-step, step):
        atoms.positions = start + distance * direction
        energies.append(atoms.get_potential_energy())
    slope = (energies[0] - energies[1]) / (2 * step)
    assert slope == pytest.approx((forces * direction).sum(), rel=0, abs=0.05)


def test_all_electron_energies_are_learned_like_small_ones(fitted):
    """With a constant of -25 keV an atom the error of the energies grows by less than a half.

    After libAtoms/QUIP#263 and ACEsuit/mace#581.
    """
    plain, large = (
        float(fitted(constant).history.isel(epoch=-1).energy_rmse.sel(split="valid"))
        for constant in (0.0, -25560.0)
    )
    assert large <= 1.5 * plain


@pytest.fixture
def fit(labeled_copper, tmp_path) -> Callable[..., training.Run]:
    """Return a function that writes copper frames, one of them changed, and trains on the file."""

    def run(count: int, change: Callable = lambda atoms: None, epochs: int = 2, **settings: object):
        frames, path = labeled_copper(count), tmp_path / "frames.xyz"
        change(frames[count // 2])
        ase.io.write(path, frames, format="extxyz")
        loaded = datasets.load(path)
        return training.fit(
            COPPER,
            training.TrainingConfig(max_epochs=epochs, **settings),
            losses.LossWeights(),
            loaded,
            datasets.split(loaded),
            tmp_path / "run",
        )

    return run


BROKEN_FRAMES = {
    "no forces": lambda atoms: atoms.arrays.pop("forces"),
    "energy that is NaN": lambda atoms: atoms.info.update(energy=np.nan),
    "infinite force": lambda atoms: atoms.arrays["forces"].__setitem__((0, 0), np.inf),
    "huge force": lambda atoms: atoms.arrays["forces"].__setitem__((0, 0), 1e6),
}


@pytest.mark.parametrize("name", BROKEN_FRAMES)
def test_a_broken_frame_is_named(name, fit):
    """One broken frame among thirty is refused with the file and the number of the frame.

    After nyu-mll/jiant#169 and ACEsuit/mace#13.
    """
    with pytest.raises(InputError, match=r"frames\.xyz: frame 15: "):
        fit(30, BROKEN_FRAMES[name])


def test_one_frame_is_no_training_set(fit):
    """A single frame cannot be divided, and the error says so; after ACEsuit/mace#13."""
    with pytest.raises(InputError, match="frame"):
        fit(1)


def test_a_batch_larger_than_the_data_trains(fit):
    """A batch of 500 takes the thirty frames that there are; after nyu-mll/jiant#169."""
    assert np.isfinite(fit(30, batch_size=500).history.loss).all()


def test_a_folder_keeps_its_training(fit):
    """A finished training is not continued with other settings; after nyu-mll/jiant#169."""
    fit(30)
    with pytest.raises(InputError, match="run"):
        fit(30, epochs=4)


def test_a_truncated_checkpoint_is_named(fit, tmp_path):
    """A training does not begin from half a checkpoint, but says which; after nyu-mll/jiant#169."""
    fit(30)
    (tmp_path / "run" / "history.nc").unlink()
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"\x10\0\0\0")
    with pytest.raises(InputError, match=CHECKPOINT):
        fit(30)


def test_a_truncated_model_is_named(fit, tmp_path):
    """Half a file of weights is no model, and the error says which; after nyu-mll/jiant#169."""
    fit(30)
    model = tmp_path / "run" / WEIGHTS
    model.write_bytes(model.read_bytes()[:500])
    with pytest.raises(InputError, match="run: not a readable"):
        hipnn.load(tmp_path / "run")


LONG_TRAINING = """
import sys
from kdlib import datasets, hipnn, training
frames = datasets.load("al-pbe")[:40]
training.fit(
    hipnn.HipnnConfig(8, 6, 1, cutoff=5.0, soft_max=4.5),
    training.TrainingConfig(max_epochs=5000, checkpoint_every=1),
    training.LossWeights(), frames, datasets.split(frames), sys.argv[1],
)
"""


@pytest.fixture
def killed(start, tmp_path) -> Path:
    """Folder of a training that was killed after a checkpoint of trained weights."""
    folder = tmp_path / "run"
    process = start("-c", LONG_TRAINING, folder)
    deadline = time.monotonic() + 120
    while checkpoint_epoch(folder) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return folder


def checkpoint_epoch(folder: Path) -> int:
    """Epoch of the last checkpoint; 0 without one."""
    path = folder / CHECKPOINT
    return loop.load(path)[1]["epoch"] if path.exists() else 0


def test_an_interrupted_training_is_not_taken_for_a_model(killed, refusal):
    """A killed training is refused as a potential, gives the weights so far, or warns.

    After Yelp/vampire#113 and ThilinaRajapakse/simpletransformers#313.
    """

    def load() -> hipnn.Potential:
        teachers.load(f"kdlib:{killed}")
        return hipnn.load(killed)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        refused = refusal(load)
    if not refused and not said:
        potential = load()
        begun, now = (m.state_dict() for m in (hipnn.build(potential.config, 0), potential.module))
        names = [k for k in now if "interaction" in k and hasattr(now[k], "shape")]
        assert not all(np.allclose(now[name], begun[name]) for name in names)
