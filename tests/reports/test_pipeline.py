"""Reports about pipelines of notebooks: folders, names of files, kernels and two runs at once."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import xarray as xr
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from kdlib import datasets, hipnn, pipeline, results, training
from kdlib.distill.sampling import structures
from kdlib.pipeline import notebook as steps
from kdlib.training import losses

RUN_01 = ("-m", "kdlib", "run", "--only", "01")


@pytest.fixture
def closed(tmp_path) -> Path:
    """Folder with a read-only folder, a plain file and a file that may not be read.

    A profile names that file.
    """
    (tmp_path / "read-only").mkdir(mode=0o555)
    (tmp_path / "mine.yaml").write_text("common: {dataset: secret.xyz}")
    (tmp_path / "file").write_text("x")
    secret = tmp_path / "secret.xyz"
    secret.write_text("1\n\nAl 0 0 0\n")
    secret.chmod(0)
    return tmp_path


DISTILL = "distill --teacher emt --structure Cu --max-minutes 0.01 --out "


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "run --only 01 --results read-only/results",
        "run --only 01 --results file/results",
        "run --only 01 --results file",
        DISTILL + "read-only/out",
        "info secret.xyz",
        "run --only 01 --results results --profile mine.yaml",
    ],
)
def test_a_path_that_cannot_be_used_is_one_sentence(command, closed, ordinary_user, finish):
    """Without the right to write or read, the command says so in one line, with a code of failure.

    After jupyter/docker-stacks#465.
    """
    run = finish("-m", "kdlib", *command.split(), prefix=ordinary_user, cwd=closed)
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("kdlib: ")


def test_a_result_that_is_open_elsewhere_is_written_again(aluminum, tmp_path):
    """A reader that holds a result open keeps its data, and the new result is whole.

    After pydata/xarray#10679.
    """
    training.fit(
        hipnn.HipnnConfig(8, 6, 1, cutoff=5.0, soft_max=4.5),
        training.TrainingConfig(max_epochs=2),
        losses.LossWeights(),
        aluminum,
        datasets.split(aluminum),
        tmp_path / "run",
    )
    path = tmp_path / "run" / "history.nc"
    before = results.load(path)
    with xr.open_dataset(path, engine="h5netcdf") as reader:
        results.save(before.assign(loss=before.loss * 2), path, kind="run")
        np.testing.assert_array_equal(reader.loss.values, before.loss.values)
    np.testing.assert_array_equal(results.load(path).loss, 2 * before.loss)


@pytest.fixture
def odd_folder(tmp_path, monkeypatch) -> Path:
    """Working folder below the user's home with blanks, brackets, an accent and an at sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "Meine Daten [neu] é@cluster"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(atoms: Atoms | list[Atoms], path: Path, kind: str) -> None:
    """Write under a plain name first: ASE reads more into some names."""
    ase.io.write(path.parent / "plain", atoms, format=kind)
    (path.parent / "plain").rename(path)


ODD_NAMES = ("a b.xyz", "lauf[1].xyz", "ü.xyz", "frames@300K.xyz", "x@2.xyz", "{a}.xyz", "#1.xyz",
             "100%.xyz")  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_file_of_data_may_have_any_name(name, odd_folder, aluminum):
    """Blanks, brackets, signs and letters beyond ASCII in a name change nothing.

    After nteract/papermill#24, molgenis/vip#713 and aws-cloudformation/cfn-lint#1242.
    """
    write(aluminum[:4], odd_folder / name, "extxyz")
    assert len(datasets.load(odd_folder / name)) == 4


WAYS = {
    "pattern": lambda folder: str(folder / "*.xyz"),
    "relative and absolute": lambda folder: ["one.xyz", str(folder / "two.xyz")],
    "home": lambda folder: [f"~/{folder.name}/{name}.xyz" for name in ("one", "two")],
}


@pytest.mark.parametrize("way", WAYS)
def test_files_may_be_named_in_any_way(way, odd_folder, aluminum):
    """A pattern, relative beside absolute paths, and the home's ``~`` find the same frames.

    After nteract/papermill#24, molgenis/vip#713 and aws-cloudformation/cfn-lint#1242.
    """
    write(aluminum[:2], odd_folder / "one.xyz", "extxyz")
    write(aluminum[2:4], odd_folder / "two.xyz", "extxyz")
    assert len(datasets.load(WAYS[way](odd_folder))) == 4


@pytest.mark.parametrize("name", ["Cu@300K.cif", "a b.cif", "Cu[2x2].cif", "POSCAR@relaxed"])
def test_a_file_of_a_structure_may_have_any_name(name, odd_folder):
    """What follows an at sign is part of the name where a file has that name.

    After nteract/papermill#24 and molgenis/vip#713.
    """
    kind = "vasp" if name.startswith("POSCAR") else "cif"
    write(bulk("Cu", cubic=True), odd_folder / name, kind)
    assert len(structures([str(odd_folder / name)])) == 1


ABSENT = {"name": "py39_new", "display_name": "x", "language": "python"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernelspec",
    [
        pytest.param(ABSENT, id="not installed"),
        pytest.param(None, id="none"),
    ],
)
def test_a_notebook_runs_whatever_kernel_it_names(kernelspec, finish, tmp_path):
    """A notebook that names a kernel that is not there, or none, runs with the command's Python.

    After nteract/papermill#638 and nteract/papermill#338.
    """
    folder = tmp_path / "my notebooks"
    shutil.copytree(pipeline.notebooks_folder(), folder)
    path = folder / "01_data.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"].pop("kernelspec", None)
    if kernelspec:
        notebook["metadata"]["kernelspec"] = kernelspec
    else:
        notebook["metadata"].pop("language_info", None)
    path.write_text(json.dumps(notebook))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JUPYTER_PATH": "/nowhere"}
    arguments = ("--notebooks", folder, "--results", tmp_path / "my results")
    run = finish(*RUN_01, *arguments, env=environment, timeout=200)
    assert run.returncode == 0, run.stderr


def copper_gold() -> list[Atoms]:
    """Sixty frames with labels under names of the user's own."""
    frames = []
    for k in range(60):
        atoms = bulk("Cu", cubic=True, a=3.6 + 0.01 * (k % 20)) * (2, 1, 1)
        atoms.numbers[k % 8] = 79
        atoms.rattle(0.06, seed=k)
        atoms.calc = EMT()
        atoms.info.update(TotEnergy=atoms.get_potential_energy(), config_type="bulk")
        atoms.arrays["DFTforces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    return frames


@pytest.fixture
def own_profile(tmp_path) -> Path:
    """Profile of own data, short trainings and one small model, in a folder with an umlaut."""
    folder = tmp_path / "Kupfer Gold ü"
    folder.mkdir()
    ase.io.write(folder / "meine frames.xyz", copper_gold(), format="extxyz")
    common = {
        "dataset": "meine frames.xyz", "energy_key": "TotEnergy", "forces_key": "DFTforces",
        "architectures": [[8, 6, 1]], "seeds": [0],
    }  # fmt: skip
    found = {step.name: step for step in steps.discover(pipeline.notebooks_folder())}
    for name, parameter in found["02_teacher"].parameters.items():
        if "epoch" in name and parameter.type == "int":
            common[name] = 2
    path = folder / "mein.yaml"
    text = yaml.safe_dump({"description": "ü", "common": common}, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_own_data_in_an_odd_folder_go_through_the_pipeline(own_profile, finish, tmp_path):
    """Own keys, two species and a folder with blanks, from elsewhere: 01 to 03 run, 01 once only.

    After nteract/papermill#24 and libAtoms/QUIP#263.
    """
    for number in ("01", "02", "03", "01"):
        run = finish(
            "-m", "kdlib", "run", "--profile", own_profile, "--only", number,
            "--results", "ergebnisse ü", cwd=tmp_path, timeout=280,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    assert "0 notebooks run, 1 up to date" in run.stderr


@pytest.mark.slow
def test_a_second_run_in_one_folder_is_refused(start, finish, tmp_path):
    """`kdlib run` twice at once on one folder: the second reports it and ends, the first continues.

    After vatlab/sos#1181.
    """
    folder = tmp_path / "results"
    one = start(*RUN_01, "--results", folder)
    deadline = time.monotonic() + 60
    while not (folder / ".lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    one.send_signal(signal.SIGSTOP)  # or it might end before the second has started
    two = finish(*RUN_01, "--results", folder)
    one.send_signal(signal.SIGCONT)
    assert two.returncode == 2
    assert "another" in two.stderr
    _, error = one.communicate(timeout=280)
    assert one.returncode == 0, error
