"""The notebooks keep their contract, and the whole `smoke` profile gives physical results."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
import xarray as xr
import yaml
from ase import Atoms
from ase.io import write
from webpages import faults

from kdlib import claims, pipeline, results
from kdlib.__main__ import main
from kdlib.datasets import records
from kdlib.errors import InputError
from kdlib.pipeline import book, profile
from kdlib.pipeline import notebook as steps
from kdlib.results import sources

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize(
    "path", [*NOTEBOOKS, PROJECT / "al_pbe" / "00_reference_data.ipynb"], ids=lambda path: path.stem
)

FIGURES = (
    *("data", "fig1_schematic", "parity", "fig2_pareto", "fig3_capacity", "rdf", "fig4_dynamics"),
    *("fig5_cost", "step_breakdown", "table1_schedule", "born_again", "claims"),
    *("distilled", "robustness"),
    *(["crystals"] if records.record("physics") is not None else []),
)
"""Figures and tables of the paper, and those that go with them."""
DOI = "10.1039/D5DD00085H"
LONGEST_FUNCTION = 10
"""Lines; what is longer belongs into the library, where it has tests."""


def _code(path: Path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_a_notebook_for_each_part_of_the_paper() -> None:
    """Sections 2.1 to 4 of the paper, the user's own material, and an index of them all."""
    *numbered, last = [path.stem for path in NOTEBOOKS]
    assert [name[:2] for name in numbered] == [f"{n:02d}" for n in range(1, 13)]
    assert last == book.INDEX


@every_notebook
def test_format_and_title(path: Path) -> None:
    """Stored as nbformat 4.5 with cell ids, for any Python kernel; a title comes first."""
    stored = json.loads(path.read_text())
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    nbformat.validate(stored)
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def _links(path: Path, cell: int | None = None) -> list[str]:
    """Targets of the links in the text cells of a notebook, or in one of its cells."""
    cells = nbformat.read(path, as_version=4).cells
    chosen = cells if cell is None else cells[cell : cell + 1]
    texts = [c.source for c in chosen if c.cell_type == "markdown"]
    return re.findall(r"\]\(([^)]+)\)", "\n".join(texts))


@every_notebook
def test_first_cell_leads_to_the_paper_and_the_index(path: Path) -> None:
    """The paper by its DOI and a section; no link to another notebook is dead."""
    links = _links(path, cell=0)
    assert f"https://doi.org/{DOI}" in links
    assert re.search(r"sections? \d", nbformat.read(path, as_version=4).cells[0].source)
    assert path.stem == book.INDEX or "index.ipynb" in {Path(link).name for link in links}
    for link in _links(path):
        assert link.startswith("https://") or (path.parent / link).is_file(), link


def test_notebooks_are_a_chain() -> None:
    """The first cell of each leads to its neighbors, and the index to all."""
    *chain, index = NOTEBOOKS
    for path, before, after in zip(chain, [None, *chain], [*chain[1:], None], strict=False):
        neighbors = [other.name for other in (before, index, after) if other is not None]
        assert [link for link in _links(path, cell=0) if link.endswith(".ipynb")] == neighbors
    assert {path.name for path in chain} <= set(_links(index))


def test_every_claim_has_a_notebook_that_draws_its_figure(project: Path) -> None:
    """The index finds the notebook of each claim in what the notebooks declare."""
    drawn = set(steps.makers(steps.discover(project / "notebooks")))
    assert {f"figures/{claim.figure}.svg" for claim in claims.claims()} <= drawn


@every_notebook
def test_formulas_can_be_drawn(path: Path) -> None:
    """Formulas keep to the TeX that the reading copy can show without scripts."""
    texts = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    for display, inline in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", "\n".join(texts), re.DOTALL):
        assert book.formula(display or inline)


@every_notebook
def test_no_outputs_are_stored(path: Path) -> None:
    """Results belong into result files: a notebook in the repository has none."""
    for cell in _code(path):
        assert not cell.outputs
        assert cell.execution_count is None


@every_notebook
def test_parameters_are_typed_commented_literals(path: Path) -> None:
    """One cell tagged `parameters`; each line is `name: type = literal  # meaning`."""
    declared = steps.inspect(path)
    assert {"profile", "results_dir"} <= set(declared)
    for parameter in declared.values():
        assert parameter.type in {"int", "float", "str", "bool", "list", "dict"}, parameter
        assert parameter.help, f"{parameter.name} has no comment"
    (cell,) = [c for c in _code(path) if "parameters" in c.metadata.get("tags", ())]
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.AnnAssign), ast.unparse(node)
        ast.literal_eval(node.value)
    assert cell.source.count(": ") >= len(declared) == len(ast.parse(cell.source).body)


@every_notebook
def test_code_is_calls_to_the_library(path: Path) -> None:
    """No long functions, no change of directory or search path, no magics; kdlib is imported."""
    source = "\n".join(cell.source for cell in _code(path))
    tree = ast.parse(source)  # a magic or a shell command does not parse
    for node in ast.walk(tree):
        assert not isinstance(node, ast.ClassDef), node.name
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, node.name
    for forbidden in ("sys.path", "chdir", "get_ipython", "subprocess", "os.system"):
        assert forbidden not in source
    assert re.search(r"^from kdlib import ", source, re.MULTILINE)


@every_notebook
def test_files_are_declared(path: Path) -> None:
    """Skipping trusts the metadata: what the code names is declared, what it writes is named."""
    step = steps.read(path)
    texts = set().union(*(sources.text_constants(cell) for cell in step.cells))
    named = {text for text in texts if text.endswith(".nc") and text != ".nc"}
    assert named <= {*step.reads, *step.writes}
    for name in step.writes:
        assert {name, Path(name).stem} & texts, f"{name} is not named in the code"


@every_notebook
def test_what_was_found_is_published_and_told(path: Path) -> None:
    """One call writes all result files and figures; the last cell says what they mean."""
    step = steps.read(path)
    code = "\n".join(step.cells)
    assert code.count("figures.publish(") == bool(step.writes)
    assert bool(step.writes) == (path.stem != book.INDEX)
    assert "results.save(" not in code
    assert "print(" in step.cells[-1]


@pytest.mark.parametrize("name", profile.available())
def test_profiles_fit_the_notebooks(name: str, project: Path) -> None:
    """Every key of a profile is a parameter of the notebook that gets it, of the same type."""
    ordered = steps.discover(project / "notebooks")
    chosen = profile.load(name)
    chosen.validate(ordered)
    assert chosen.description
    common = {"profile", "results_dir", *chosen.common}
    assert {"dataset", "seeds", "architectures", "teacher_architecture"} <= common


def test_every_setting_of_a_training_reaches_the_notebooks(project: Path) -> None:
    """Notebooks that train take one checked mapping, and profile `paper` uses a GPU if it can."""
    by_name = {step.name: step for step in steps.discover(project / "notebooks")}
    trains = {name for name, step in by_name.items() if "training" in step.parameters}
    assert trains == {"02_teacher", "03_students", "09_born_again", "11_robustness"}
    assert {
        name for name, step in by_name.items() if "floor_check" in step.parameters
    } == trains - {"11_robustness"}
    for name in trains:
        assert profile.load("paper").parameters(by_name[name])["training"]["device"] == "auto"
        wrong = profile.Profile("p", notebooks={name: {"training": {"batch_size": "8"}}})
        with pytest.raises(InputError, match=f"{name}.ipynb: training: batch_size must be int"):
            wrong.validate(list(by_name.values()))


def test_notebooks_run_in_the_order_of_their_numbers_where_files_allow(project: Path) -> None:
    """Whoever makes a file comes before whoever reads it; own materials and the index come last."""
    ordered = steps.discover(project / "notebooks")
    place = {step.name: n for n, step in enumerate(ordered)}
    made = steps.makers(ordered)
    for step in ordered:
        assert all(place[made[name].name] < place[step.name] for name in step.reads)
    assert ordered[0].name.startswith("01")
    assert [step.name[:2] for step in ordered[-4:]] == ["10", "11", "12", "in"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole smoke profile once and return its results folder."""
    folder = tmp_path_factory.mktemp("smoke")
    assert main(["run", "--profile", "smoke", "--results", str(folder)]) == 0
    return folder


@pytest.mark.notebooks
def test_smoke_writes_every_declared_file(smoke: Path, project: Path) -> None:
    """All result files are there and valid, and all executed copies without an error."""
    for step in steps.discover(project / "notebooks"):
        for name in step.writes:
            if name.endswith(".nc"):
                results.load(smoke / name)
            else:
                assert (smoke / name).stat().st_size > 0
        executed = nbformat.read(smoke / "notebooks" / f"{step.name}.ipynb", as_version=4)
        last = [cell for cell in executed.cells if cell.cell_type == "code"][-1]
        said = "".join(output.get("text", "") for output in last.outputs)
        assert len(said.split()) > 4, f"{step.name} says nothing about its result"


@pytest.mark.notebooks
def test_smoke_draws_every_figure(smoke: Path, project: Path) -> None:
    """Each figure is there as PNG and SVG beside its data, and no data without a figure."""
    declared = {name for step in steps.discover(project / "notebooks") for name in step.writes}
    present = {f"figures/{path.name}" for path in (smoke / "figures").iterdir()}
    assert present == {f"figures/{name}.{end}" for name in FIGURES for end in ("png", "svg", "nc")}
    assert present >= {name for name in declared if name.startswith("figures/")}


@pytest.mark.notebooks
def test_smoke_becomes_a_book(smoke: Path, tmp_path: Path, project: Path) -> None:
    """A page for each notebook, whole without a network, and silent about this machine."""
    assert main(["book", "--results", str(smoke), "--out", str(tmp_path / "docs")]) == 0
    pages = {path.stem: path.read_text() for path in (tmp_path / "docs").glob("*.html")}
    assert set(pages) == {path.stem for path in NOTEBOOKS}
    assert faults(tmp_path / "docs") == []
    for name, text in pages.items():
        assert str(smoke) not in text, name
        assert str(project) not in text, name
    drawn = {f"figures/{claim.figure}.svg" for claim in claims.claims()}
    assert all(name in pages[book.INDEX] for name in drawn)


@pytest.mark.notebooks
def test_smoke_again_is_all_skipped(smoke: Path) -> None:
    """A repeated run has nothing left to do."""
    outcomes = pipeline.run(profile.load("smoke"), smoke)
    assert {outcome.name: outcome.reason for outcome in outcomes if not outcome.skipped} == {}


def _data(ds: xr.Dataset) -> bool:
    """Aluminum, solid, liquid, strained or compressed: 1.5 to 4.6 g/cm3."""
    return bool(ds["density"].min() > 1.5 and ds["density"].max() < 4.6)


def _accuracy(ds: xr.Dataset) -> bool:
    """A root mean square is at least the mean of the absolute values."""
    pairs = (("force_rmse", "force_mae"), ("energy_rmse", "energy_mae"))
    return all(bool((ds[a] - ds[b]).min() >= 0) for a, b in pairs)


def _history(ds: xr.Dataset) -> bool:
    """Losses are positive, and the learning rate never rises."""
    rate = ds["learning_rate"].diff("epoch")
    return bool(ds["loss"].min() > 0 and rate.max() <= 0)


def _speed(ds: xr.Dataset) -> bool:
    """No part of an MD step takes longer than the step."""
    total = ds["step_time"].sel(component="total")
    parts = ds["step_time"].sel(component=["neighbor_list", "model", "integrator"])
    return bool(total.min() > 0 and (total - parts).min() >= 0)


def _rdf(ds: xr.Dataset) -> bool:
    """A sphere of 8 Angstrom holds as many atoms as the density says; far pairs are uncorrelated.

    Even for the models of this profile, which nobody trained long enough to hold a liquid together.
    """
    far = ds["g_experiment"].where(ds["r"] > 7, drop=True)
    inside = ds["g"].weighted(ds["r"] ** 2).mean("r")
    return bool(abs(far.mean() - 1) < 0.1 and abs(inside - 1).max() < 0.1)


def _claims(ds: xr.Dataset) -> bool:
    """Every claim has one of four verdicts, and a number exactly when it was measured."""
    verdicts = {"holds", "does not hold", "not decided", "not measured"}
    unmeasured = np.isnan(ds["value"].values)
    says_so = ds["verdict"].values == "not measured"
    return set(ds["verdict"].values.tolist()) <= verdicts and bool((unmeasured <= says_so).all())


def _parity(ds: xr.Dataset) -> bool:
    """Reference and prediction are finite for every frame, sample and atom."""
    return all(
        bool(np.isfinite(ds[name]).all()) for name in ds.data_vars if ds[name].dtype == float
    )


def _labels(ds: xr.Dataset) -> bool:
    """An atom of condensed aluminum is bound by some eV, and no two teachers agree exactly."""
    energies = ds["atomic_energies"]
    return bool(-6 < energies.mean() < -1 and energies.std("seed").mean() > 0)


def _distilled(ds: xr.Dataset) -> bool:
    """Curves have their lowest point at zero, and no run lasts longer than it was asked to."""
    lowest, survived = ds["curve"].min("ratio"), ds["survived"]
    return bool((lowest == 0).all() and survived.min() >= 0 and survived.max() <= 1)


def _robustness(ds: xr.Dataset) -> bool:
    """Under another protocol every training ends with another error."""
    run, other = (ds["force_rmse"].isel(variant=k) for k in (0, 1))
    same = (run.isnull() == other.isnull()).all() and run.notnull().any()
    return bool(ds.variant[0] == "as chosen" and same and ((run != other) | run.isnull()).all())


FACTS: dict[str, Callable[[xr.Dataset], bool]] = {
    "data": _data,
    "accuracy": _accuracy,
    "history": _history,
    "labels": _labels,
    "speed": _speed,
    "rdf": _rdf,
    "claims": _claims,
    "parity": _parity,
    "distilled": _distilled,
    "robustness": _robustness,
}


@pytest.mark.notebooks
def test_notebooks_run_on_data_of_another_species(
    tmp_path: Path, copper_frames: list[Atoms]
) -> None:
    """Trained copper is found by the sizes of the profile in liquids and in changed protocols."""
    write(tmp_path / "copper.xyz", copper_frames)
    settings = yaml.safe_load((profile.FOLDER / "smoke.yaml").read_text())
    settings["common"] |= {"dataset": "copper.xyz", "seeds": [0], "epochs": {"8-8-1": 2}}
    (tmp_path / "copper.yaml").write_text(yaml.safe_dump(settings))
    given = ["--profile", str(tmp_path / "copper.yaml"), "--results", str(tmp_path / "results")]
    for number in ("01", "02", "03", "06", "11"):
        assert main(["run", *given, "--only", number]) == 0
    trained = results.load(tmp_path / "results" / "accuracy_students.nc")
    structure = results.load(tmp_path / "results" / "rdf.nc")
    changed = results.load(tmp_path / "results" / "robustness.nc")
    for ds in (trained, structure, changed):
        students = ds.sel(role="student").dropna("architecture", how="all")
        assert all("Cu" in label for label in students.architecture.values)
    assert np.unique(trained.n_epochs).tolist() == [2]


@pytest.mark.notebooks
def test_smoke_results_are_physical(smoke: Path) -> None:
    """One fact for each kind of result or free file, which no plumbing error leaves intact."""
    checked = set()
    for path in sorted(smoke.glob("*.nc")):
        ds = results.load(path)
        fact = path.stem if path.stem in FACTS else ds.attrs["kind"]
        assert FACTS[fact](ds), f"{path.name}: {FACTS[fact].__doc__}"
        checked.add(fact)
    assert checked == set(FACTS)


@pytest.mark.notebooks
def test_code_of_the_readme_runs(smoke: Path, project: Path) -> None:
    """What the README shows works on the results of a run."""
    text = (project / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        code = block.replace("results/quick", str(smoke))
        exec(compile(code, "README.md", "exec"), {})


@pytest.mark.notebooks
def test_figures_are_drawn_again_from_their_data(smoke: Path, tmp_path: Path) -> None:
    """`kdlib figures` needs nothing but the NetCDF files, and draws the same pictures."""
    from kdlib import figures

    (tmp_path / "figures").mkdir()
    for path in (smoke / "figures").glob("*.nc"):
        shutil.copy(path, tmp_path / "figures")
    drawn = {path.name: path for path in figures.redraw(tmp_path) if path.suffix == ".png"}
    assert set(drawn) == {path.name for path in (smoke / "figures").glob("*.png")}
