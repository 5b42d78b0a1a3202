"""The comparison with a linear ACE: exchange of frames, errors, environment, result file."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from ase.calculators.eam import EAM
from ase.calculators.singlepoint import SinglePointCalculator

from kdlib import datasets, results
from kdlib.benchmarks import linear_ace
from kdlib.benchmarks.linear_ace import AceProtocol, AceSize, classical, environment, exchange
from kdlib.benchmarks.linear_ace.plan import ENGINES, EVALUATED
from kdlib.benchmarks.linear_ace.table import ERRORS
from kdlib.benchmarks.side_by_side import lammps
from kdlib.datasets import registry
from kdlib.errors import InputError, Unfinished
from kdlib.results.schema import FREE_KINDS
from kdlib.training import accuracy

TINY = AceProtocol(
    sizes=(AceSize(2, 6),), cutoff=4.0, energy_weights=(1.0, 10.0), n_atoms=(4, 8), threads=(1, 2),
    n_steps=2, repeats=2, warmup_steps=1, melt_steps=1,
)  # fmt: skip


def digits(frames: list[Atoms]) -> list[Atoms]:
    """Frames whose labels and positions need every digit."""
    rng = np.random.default_rng(3)
    for atoms in frames:
        labels = {"energy": -1e3 * np.pi * rng.random(), "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return frames


def test_frames_keep_labels_and_cell(alloys, molecules, tmp_path):
    """What the environment reads with ASE is what kdlib holds, to the last digit."""
    frames = digits([*alloys, *molecules])
    read = ase.io.read(exchange.write(frames, tmp_path / "frames.xyz"), ":")
    for atoms, back in zip(frames, read, strict=True):
        assert list(atoms.symbols) == list(back.symbols)
        assert (atoms.pbc == back.pbc).all()
        for name in ("energy", "forces"):
            np.testing.assert_allclose(
                back.calc.results[name], atoms.calc.results[name], rtol=0, atol=1e-12
            )
        np.testing.assert_allclose(back.positions, atoms.positions, rtol=0, atol=1e-12)
        np.testing.assert_allclose(back.cell.array, atoms.cell.array, rtol=0, atol=1e-12)


def test_starts_keep_velocities(crystal, tmp_path):
    """Timed runs start from kdlib's velocities."""
    crystal.set_momenta(np.random.default_rng(0).normal(size=(32, 3)))
    back = ase.io.read(exchange.write([crystal], tmp_path / "start.xyz"))
    np.testing.assert_allclose(back.get_velocities(), crystal.get_velocities(), rtol=1e-14)


class Planted:
    """A potential whose predictions are labels with known errors."""

    def __init__(self, predicted: dict) -> None:
        self.predicted = predicted

    def predict(self, frames, stress=False, joined=None) -> xr.Dataset:
        """As `kdlib.hipnn.Potential` does."""
        sizes = [len(atoms) for atoms in frames]
        return xr.Dataset(
            {
                "energy": ("frame", self.predicted["energy"]),
                "forces": (("atom", "xyz"), np.concatenate(self.predicted["forces"])),
                "frame_index": ("atom", np.repeat(range(len(frames)), sizes)),
            }
        )


@pytest.fixture
def unequal(emt_frames) -> list[Atoms]:
    """Labeled cells of 4 and 8 atoms."""
    frames = [emt_frames[0], emt_frames[1] * (2, 1, 1), emt_frames[2]]
    return digits([atoms.copy() for atoms in frames])


def test_errors_are_those_of_the_house(unequal):
    """Per atom and per component, pooled over cells of unequal size, as for HIP-NN."""
    rng = np.random.default_rng(0)
    predicted = {
        "energy": [a.calc.results["energy"] + rng.normal() for a in unequal],
        "forces": [a.calc.results["forces"] + rng.normal(size=(len(a), 3)) for a in unequal],
    }
    ours = linear_ace.errors(unequal, json.loads(json.dumps(predicted, default=np.ndarray.tolist)))
    theirs = accuracy.residuals(Planted(predicted), unequal)
    assert set(ours) == set(theirs)
    assert accuracy.summary(ours) == pytest.approx(accuracy.summary(theirs), rel=1e-14, nan_ok=True)
    assert linear_ace.errors([], {}) == {}


def fake_python(folder: Path, words: str, code: int) -> str:
    """Make a program that ends as Python without venv or network does."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(registry.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_an_environment_there_is_one_sentence(cache, tmp_path):
    """No venv, or no Python at all: the reason, what is needed, and no folder that looks made."""
    python = fake_python(tmp_path, "Error: no module named venv", 1)
    for program, reason in ((python, "no module named venv"), ("/no/such/python", "No such file")):
        with pytest.raises(InputError, match=f"{reason}.*needs venv, pip and a network") as error:
            environment.program(["ace-jax"], program)
        assert "\n" not in str(error.value)
    assert not environment.finished(["ace-jax"])
    assert not environment.location(["ace-jax"]).exists()


def test_without_a_network_nothing_is_left(cache, tmp_path, monkeypatch):
    """What pip complains of is said, and the half-made environment is removed."""
    home = environment.location(["ace-jax"])

    def venv_without_network(command, requirements):
        if "venv" in command:
            (home / "bin").mkdir(parents=True)
            fake_python(home / "bin", "ERROR: No matching distribution found for ace-jax", 1)
            return ""
        return said(command, requirements)

    said = environment._said
    monkeypatch.setattr(environment, "_said", venv_without_network)
    with pytest.raises(InputError, match=r"\(No matching distribution found for ace-jax\)"):
        environment.program(["ace-jax"])
    assert not home.exists()


def test_a_finished_environment_is_used_again(cache):
    """Only the file that is written last makes an environment one; then nothing is installed."""
    home = environment.location(["ace-jax"])
    home.mkdir(parents=True)
    (home / environment.FINISHED).write_text("ace-jax==0.4.1\n")
    assert environment.program(["ace-jax"], "/no/such/python") == home / "bin" / "python"
    assert environment.location(["ace-jax"]) != environment.location(["ace-jax==0.4.1"])


def test_a_worker_that_breaks_off_says_why(tmp_path):
    """The last error of the log is the reason, and a killed worker is named as such."""
    python = fake_python(tmp_path, "ValueError: no such basis", 1)
    with pytest.raises(Unfinished, match="fit broke off: ValueError: no such basis"):
        environment.call(Path(python), "fit", {})
    Path(python).write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(Unfinished, match="killed, as the system does when memory"):
        environment.call(Path(python), "fit", {})


def test_the_worker_ends_with_its_parent_and_not_before():
    """It ends by itself without a complaint, and at once when nobody holds its standard input."""
    code = (
        f"import sys; sys.path.insert(0, {str(environment.WORKER.parent)!r})\n"
        "import threading, time, worker\n"
        "threading.Thread(target=worker._end_with_parent, daemon=True).start()\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    command = [sys.executable, "-I", "-c", code]
    for seconds, leave, ended in (("0", False, 0), ("60", True, 1)):
        with subprocess.Popen([*command, seconds], stdin=subprocess.PIPE) as process:
            if leave:
                process.stdin.close()
            assert process.wait(timeout=30) == ended


def answer(python, stage, job, threads=1) -> dict:
    """Answer as the worker does: with the labels, and a shift that falls with the weight."""
    if stage == "fit":
        for k in range(len(job["energy_weights"])):
            (Path(job["models"]) / f"{k}.npz").write_text(f"model {k}")
        numbers = dict.fromkeys(("n_functions", "n_parameters"), 17)
        times = dict.fromkeys(("fit_time", "fit_processor_time"), 2.0)
        noise = {"noise_energy": 0.1, "noise_force": 0.2}
        return {**numbers, **times, **noise, "jax_version": "0.10.2"}
    if stage == "predict":
        shift = 0.1 if job["model"].endswith("0.npz") else 0.01
        frames = ase.io.read(job["frames"], ":")
        return {
            "energy": [atoms.get_potential_energy() + shift for atoms in frames],
            "forces": [(atoms.get_forces() + shift).tolist() for atoms in frames],
        }
    if job["engine"] == "kernel":
        raise Unfinished("linear ACE: time broke off: there is no C++ compiler")
    n = len(ase.io.read(job["start"]))
    return {"seconds": [n * 2e-6, n * 4e-6], "processor": [n * 3e-6] * 2, "temperature": 1200.0}


@pytest.fixture
def measured(cache, tmp_path, emt_frames, monkeypatch) -> SimpleNamespace:
    """A whole run with :func:`answer` in the place of the worker."""
    calls: list[str] = []

    def counted(python, stage, job, threads=1):
        calls.append(stage)
        return answer(python, stage, job, threads)

    monkeypatch.setattr(environment, "program", lambda requirements: Path("python"))
    monkeypatch.setattr(environment, "call", counted)
    monkeypatch.setattr(classical, "force_errors", lambda parts: xr.Dataset())
    split = datasets.split(emt_frames)

    def run() -> xr.Dataset:
        return linear_ace.run(tmp_path / "out" / "ace.nc", emt_frames, split, TINY)

    return SimpleNamespace(run=run, calls=calls, path=tmp_path / "out" / "ace.nc", split=split)


def test_result_holds_what_was_found(measured):
    """The better weight on validation is chosen; parts without frames and failures are NaN."""
    ds = measured.run()
    assert ds.attrs["kind"] in FREE_KINDS
    assert ds.attrs["split_sha256"] == measured.split.sha256
    assert ds.attrs["fitted_with_jax_version"] == "0.10.2"
    assert ds.chosen_weight.item() == 10.0
    error = ds.force_rmse.sel(size="order 2, degree 6")
    assert error.split.values.tolist() == list(EVALUATED)
    assert error.sel(split="test").item() == pytest.approx(0.01)
    assert ds.energy_rmse.sel(split="test").item() == pytest.approx(0.01 / 4)
    assert np.isnan(error.sel(split="compressed"))
    one = ds.isel(size=0).sel(n_atoms=8, threads=2)
    assert one.step_time.sel(engine="jax").values == pytest.approx([1.0, 2.0])
    assert float(one.processor_share.sel(engine="jax")) == pytest.approx(1.0)
    assert one.status.sel(engine="kernel") == "has one thread"
    assert "no C++ compiler" in ds.status.isel(size=0).sel(engine="kernel", threads=1).values[0]
    assert ds.step_time.attrs["units"] == "us/atom/step"
    assert "order 2, degree 6" in linear_ace.table(ds)


def test_a_second_run_computes_nothing_again(measured):
    """Fits, predictions and times are found by what they depend on; what failed is tried again."""
    first = measured.run()
    done = len(measured.calls)
    assert measured.calls.count("fit") == 1
    second = measured.run()
    # one thread of the kernel, at each size
    assert measured.calls[done:] == ["time"] * len(TINY.n_atoms)
    assert results.fingerprint(measured.path)
    xr.testing.assert_equal(first, second)


def test_the_json_alone_gives_the_dataset():
    """The conversion needs no environment and keeps every number of the record."""
    fit = {**answer("", "fit", {"energy_weights": [], "models": ""})}
    named = {name: 0.5 for name in ERRORS}
    record = {
        TINY.sizes[0].label: {
            "fit": fit, "selection": [2.0, 1.0], "chosen": 1,
            "errors": dict.fromkeys(EVALUATED, named),
            "times": [{"engine": ENGINES[1], "threads": 1, "n_atoms": 4, "status": "measured",
                       "seconds": [8e-6], "processor": [4e-6]}],
        }
    }  # fmt: skip
    ds = linear_ace.dataset(json.loads(json.dumps(record)), TINY)
    one = ds.sel(engine="kernel", threads=1)
    assert one.step_time.isel(repeat=0).item() == pytest.approx(1.0)
    assert one.processor_share.item() == pytest.approx(0.5)
    assert ds.selection.values.tolist() == [[2.0, 1.0]]
    assert (ds.energy_mae == 0.5).all()


def test_the_embedded_atom_potential_is_judged_on_the_same_frames(emt_frames):
    """Its forces, label and error added, are minus the slope of its energy; no file, no entry."""
    try:
        potential = lammps.find().potential
    except InputError as error:
        pytest.skip(str(error))
    frame = emt_frames[0]
    parts = {part: [frame] if part == "test" else [] for part in EVALUATED}
    found = classical.force_errors(parts)
    calculator = EAM(potential=str(potential), form="alloy", elements=["Al"])
    errors = classical._differences(calculator, [frame])
    assert found.eam_force_rmse.sel(split="test").item() == pytest.approx(accuracy.rmse(errors))
    assert np.isnan(found.eam_force_rmse.sel(split="valid"))
    direction = np.random.default_rng(0).normal(size=(4, 3))
    energies = []
    for sign in (1, -1):
        moved = Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True)
        moved.positions += sign * 1e-4 * direction
        moved.calc = calculator
        energies.append(moved.get_potential_energy())
    forces = errors + frame.calc.results["forces"]
    slope = (energies[0] - energies[1]) / 2e-4
    assert (forces * direction).sum() == pytest.approx(-slope, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ()}, "at least one size"),
        ({"sizes": (AceSize(2, 6), AceSize(2, 6))}, "none twice"),
        ({"energy_weights": (1.0, 0.0)}, "all positive"),
        ({"n_steps": 0}, "must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    """A protocol says which rule it breaks."""
    with pytest.raises(InputError, match=message):
        AceProtocol(**settings)


@pytest.mark.slow
def test_a_tiny_ace_is_fitted_and_both_engines_agree(emt_frames, tmp_path):
    """Errors of a real fit are far below the forces, and forces are the same by both engines."""
    requirements = AceProtocol().requirements
    if not environment.finished(requirements):
        pytest.skip("there is no environment of ace-jax in the cache: kdlib bench --ace makes it")
    protocol = AceProtocol(sizes=TINY.sizes, cutoff=4.0, n_atoms=(32,), threads=(1,), n_steps=2,
                           repeats=1, melt_steps=5)  # fmt: skip
    split = datasets.split(emt_frames)
    ds = linear_ace.run(tmp_path / "ace.nc", emt_frames, split, protocol)
    size = accuracy.rmse(np.concatenate([a.calc.results["forces"] for a in emt_frames]))
    assert ds.force_rmse.sel(split="test").item() < 0.3 * size
    assert (ds.status == "measured").all()
    models = sorted(
        registry.cache().glob("linear-ace/fit-*/0.npz"), key=lambda p: p.stat().st_mtime
    )
    folder = environment.WORKER.parent
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import jax; jax.config.update('jax_enable_x64', True)\n"
        "import numpy as np, worker; from ase.build import bulk\n"
        "atoms = bulk('Al', a=4.1, cubic=True); atoms.rattle(0.1, seed=0); forces = []\n"
        "for engine in worker.ENGINES.values():\n"
        f"    atoms.calc = engine({str(models[-1])!r}, 1.0); forces.append(atoms.get_forces())\n"
        "assert np.abs(forces[0] - forces[1]).max() < 1e-9 < np.abs(forces[0]).max()\n"
    )
    python = environment.program(requirements, sys.executable)
    subprocess.run([python, "-I", "-c", code], check=True)
