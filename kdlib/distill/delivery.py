"""Delivery of a distillation: model, training set, scripts for MD codes, executed report."""

import copy
import json
import shutil
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from ase.io.lammpsdata import write_lammps_data

from kdlib import hipnn, pipeline, units
from kdlib.datasets import readers
from kdlib.distill import labeled
from kdlib.distill.labeled import Pool
from kdlib.distill.plan import Plan, read
from kdlib.distill.sampling import structures
from kdlib.distill.workflow import Outcome
from kdlib.errors import InputError
from kdlib.files import locked, made, replacing
from kdlib.geometry.cells import mass_density, supercell
from kdlib.hipnn.potential import Validity
from kdlib.md.lammps import pairstyle, program
from kdlib.pipeline import notebook
from kdlib.training.accuracy import PHASES

TRAINING_SET = "training.extxyz"
#: Scripts that are copied unchanged.
SCRIPTS = ("use_with_ase.py", "use_with_lammps.py", "use_with_hippynn.py")
#: Input file for LAMMPS itself, the atoms that it reads, and how many those are, about.
INPUT, START, N_ATOMS = "in.npt.lammps", "start.data", 500


def deliver(plan: Plan, outcome: Outcome, folder: str | Path) -> Path:
    """Write model, training set and scripts into the folder of a distillation, and return it.

    ``kdlib.hipnn.load`` reads the model from it.
    """
    with locked(folder):
        return _deliver(plan, outcome, Path(folder))


def _deliver(plan: Plan, outcome: Outcome, home: Path) -> Path:
    pool = Pool(home / labeled.LABELS)
    learned = pool.frames(pool.before(outcome.final))
    learned += labeled.learned(outcome.data)
    readers.write(learned, home / TRAINING_SET)
    module = copy.deepcopy(outcome.best.potential.module)
    outcome.references.add_to(module)
    settings = {
        "validity": Validity.of(learned, module.config.cutoff).record(),
        "teacher": plan.teacher,
        "errors": outcome.record[-1]["errors"],
        "loss_weights": _weights(outcome.best.run_dir),
    }
    hipnn.save(module, home, settings)
    for name in SCRIPTS:
        with replacing(home / name) as part:
            part.write_text(_handout(name), encoding="utf-8")
    _write_input(plan, home, module.config.species)
    return home


def _handout(name: str) -> str:
    source = resources.files("kdlib.distill") / "handout" / f"{name}.txt"
    return source.read_text(encoding="utf-8")


def _write_input(plan: Plan, home: Path, species: tuple[str, ...]) -> None:
    """Write an input file of LAMMPS that runs the first structure with the pair style."""
    try:
        plugin = str(pairstyle.location(program.find()))
    except InputError:  # no LAMMPS here
        plugin = "hipnn.so"
    text, folder = _handout(INPUT), str(home.resolve())
    if pairstyle.quoted(folder) != folder:  # LAMMPS would divide what stands for the variable
        folder = "."
    for word, value in {
        "index FOLDER": f"index {folder}",
        # the outer quotes end with the variable's own line, the inner ones stay
        "index PLUGIN": f"index {pairstyle.quoted(pairstyle.quoted(plugin))}",
        "TEMPERATURE": f"{plan.temperatures[0]:g}",
        "TIMESTEP": f"{plan.timestep / units.PS:g}",
        "SPECIES": " ".join(species),
    }.items():
        text = text.replace(word, value)
    atoms = supercell(structures(plan.structures[:1])[0], N_ATOMS)
    with replacing(home / START) as part, part.open("w", encoding="utf-8") as stream:
        write_lammps_data(stream, atoms, specorder=list(species), masses=True, units="metal")
    with replacing(home / INPUT) as part:
        part.write_text(text, encoding="utf-8")


def summary(plan: Plan, outcome: Outcome, folder: Path) -> str:
    """Result of a distillation in a few lines of text."""
    last = outcome.record[-1]
    errors = last["errors"]
    lines = [
        f"{outcome.ending}: {last['frames']} frames of {plan.teacher}, {last['minutes']:.0f} min",
        *(
            f"{state:<7} force RMSE on fresh frames {errors[state]['force_rmse']:.3f} eV/Angstrom "
            f"(forces {errors[state]['force_rms']:.2f} rms, {errors[state]['n_frames']} frames)"
            for state in PHASES
            if errors[state]["n_frames"]
        ),
        *(
            f"{who:<7} force RMSE on your own frames, held out, {one['force_rmse']:.3f} eV/Angstrom"
            for who, one in last.get("data", {}).items()
        ),
        f"the student is in {folder}: hipnn.load(folder).calculator()",
    ]
    return "\n".join(lines) + "\n"


def limits(folder: str | Path) -> dict[str, str]:
    """Ranges that the training set of a delivered student covers, as text for a table."""
    home = Path(folder)
    validity = hipnn.load(home).validity
    plan = read(home)
    frames = readers.frames_of(home / TRAINING_SET)
    crystals = [atoms for atoms in frames if atoms.pbc.all()]  # the user's data may hold molecules
    density = [mass_density(atoms) for atoms in crystals]
    low, high = plan.temperatures
    said = {
        "species": ", ".join(validity.crowding),
        "temperature (K)": f"{low:g} to {high:g}",
        "density (g/cm3)": f"{min(density):.2f} to {max(density):.2f}",
    }
    said |= {f"closest {pair} (A)": f"{value:.2f}" for pair, value in validity.closest.items()}
    said |= {
        f"crowding of {name}": f"{least:.1f} to {most:.1f}"
        for name, (least, most) in validity.crowding.items()
    }
    return said


def _weights(run_dir: Path) -> list:
    return json.loads((run_dir / hipnn.CONFIG).read_text(encoding="utf-8"))["weights"]


NOTEBOOK = "12_distill_your_own"
REPORT = "report.ipynb"


def write_report(plan: Plan, folder: str | Path, measured: dict | None = None) -> Path:
    """Execute the notebook that evaluates the student of a finished distillation; return its path.

    Figures and data of the report go to ``report`` in the folder. ``measured`` are fields of
    :class:`kdlib.distill.Measures`. A :class:`kdlib.pipeline.StepFailed` names the notebook that
    holds the traceback.
    """
    with locked(folder):
        return _write_report(plan, Path(folder).resolve(), measured or {})


def _write_report(plan: Plan, home: Path, measured: dict) -> Path:
    step = notebook.read(pipeline.notebooks_folder() / f"{NOTEBOOK}.ipynb")
    results = home / "report"
    for part in ("notebooks", "logs"):
        made(results / part)
    fields = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(plan).items()}
    own = {name: fields.pop(name) for name in [*fields] if name in step.parameters}
    parameters = own | {
        "profile": "distill", "results_dir": str(results), "out": str(home), "options": fields,
        "measured": measured,
    }  # fmt: skip
    for name, value in parameters.items():
        notebook.check_value(step, name, value)
    done = pipeline.execute(step, parameters, results)
    with replacing(home / REPORT) as part:
        shutil.copyfile(done, part)
    return home / REPORT
