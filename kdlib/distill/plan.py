"""The plan of a distillation: all its settings."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from kdlib import teachers
from kdlib.errors import InputError
from kdlib.files import made, named, replacing
from kdlib.hipnn import HipnnConfig

#: Name -> features, sensitivities, atom layers of a student, within the paper's range.
SIZES = {"small": (16, 8, 1), "medium": (32, 16, 2), "large": (128, 40, 4)}
#: Uses of the teacher's atomic energies.
LABELS = ("none", "constant", "fading")
FILE = "plan.json"
#: Fields that may change when a distillation is resumed.
BUDGETS = ("target_force_rmse", "max_frames", "max_minutes", "max_rounds", "final_epochs")


@dataclass(frozen=True)
class Plan:
    """Material, sampling, training and budget of one distillation."""

    teacher: str
    """Argument of :func:`kdlib.teachers.load`."""
    structures: tuple[str, ...]
    """Files that ASE reads, or elements for :func:`ase.build.bulk`, e.g. ``Cu``."""
    temperatures: tuple[float, float] = (300.0, 1600.0)
    """Temperature range of the student, K."""
    volumes: tuple[float, float] = (0.92, 1.25)
    """Range of volumes per atom relative to the given structure's."""
    size: str = "medium"
    """Key of :data:`SIZES`, or ``"features-sensitivities-layers"``."""
    cutoff: float = 7.5
    """Cutoff of the student, Angstrom."""
    cusp_reg: float = 1e-3
    """Rounding of the cusp of the student's l = 1 invariants, which vanish on symmetric sites.

    Measured with 16-8-1 on 100 frames of al-pbe, seeds 0 and 1: force RMSE of the validation part
    in eV/Angstrom, and how many of eight relaxations by BFGS (crystals with their cells, 0.01
    eV/Angstrom, at most 300 steps) converge. With FIRE all do.

    ========  ===========  =======
    cusp_reg  RMSE         by BFGS
    ========  ===========  =======
    1e-8      0.516 0.473  5
    1e-6      0.510 0.468  8
    1e-4      0.514 0.483  8
    1e-3      0.505 0.465  8
    1e-2      0.485 0.447  8
    1e-1      0.505 0.416  8
    ========  ===========  =======

    The paper's models, and those of the pipeline, have 1e-8.
    """
    n_atoms: int = 32
    """Approximate number of atoms in a training cell, a supercell."""
    molten_above: float = 0.55
    """Above this share of the highest temperature, every other trajectory starts molten."""
    melting: float = 2.5
    """Temperature for melting, relative to the highest temperature."""
    n_start: int = 60
    """Number of rattled and strained cells labeled before the first training."""
    rattle: tuple[float, float] = (0.03, 0.35)
    """Range of the standard deviation of displacements in the first cells, Angstrom."""
    strain: float = 0.04
    """Largest random strain of a cell, beside its change of volume."""
    antisites: float = 0.4
    """Share of the first cells of several species with exchanged atoms and compressed pairs, so
    that like atoms meet before the student's own melts bring them together."""
    pressed: float = 0.8
    """Largest distance of compressed pairs, relative to the given structure's closest pair; the
    smallest is ``closest_pair``."""
    n_teacher_runs: int = 2
    """Short MD runs by the teacher after the first cells."""
    teacher_steps: int = 60
    """Steps per run of the teacher."""
    n_models: int = 2
    """Students in the ensemble whose disagreement selects frames."""
    n_trajectories: int = 24
    """MD runs by the students per round."""
    n_steps: int = 2000
    """Steps per run of the students."""
    timestep: float = 2.0
    """Time step of MD, fs."""
    sample_every: int = 50
    """Steps between evaluated configurations."""
    largest_force: float = 60.0
    """A configuration with a larger force (eV/Angstrom) on an atom counts as unphysical."""
    closest_pair: float = 0.6
    """Closest pair of a physical configuration, relative to the given structure's."""
    collapse: float = 0.45
    """Closest pair, likewise relative, at which an MD run ends. It is below ``closest_pair``: a hot
    run may pass through configurations too close to be labeled."""
    target_force_rmse: float = 0.08
    """The distillation ends when the force RMSE on fresh frames, solid and molten, is no larger,
    eV/Angstrom."""
    least_survival: float = 0.8
    """The distillation also requires that this share of the last round's MD, of solids and of
    melts, stayed physical."""
    max_frames: int = 500
    """Budget of labeled frames."""
    max_minutes: float = 45.0
    """Budget of time; the current step is finished first."""
    max_rounds: int = 8
    round_epochs: int = 150
    """Epochs of a training within the rounds."""
    final_epochs: int = 400
    """Epochs of the last training, which gives the student."""
    batch_size: int = 4
    """Frames per optimizer step."""
    patience: float = 0.1
    """Share of a training without improvement after which the learning rate is halved. Trainings
    never stop early: with few frames of strained cells the validation error may not tell when."""
    energy: float = 1.0
    """Loss weight w_E, per eV."""
    force: float = 30.0
    """Loss weight w_F, per eV/Angstrom."""
    stress: float = 300.0
    """Loss weight of the stress, if the teacher gives it, per eV/Angstrom^3."""
    atomic_energy: float = 100.0
    """Loss weight w_A of atomic energies, if the teacher gives them, per eV."""
    labels: str = "fading"
    """Use of atomic energies: ``"none"``; ``"constant"``, as in the paper; ``"fading"``, with a
    weight that falls to zero over the first half of the training."""
    data: tuple[str, ...] = ()
    """Files with your own labeled frames (DFT) for :func:`kdlib.datasets.load`, which are added to
    the teacher's: the paper's case."""
    energy_key: str = ""
    forces_key: str = ""
    stress_key: str = ""
    virial_key: str = ""
    """Names of the labels in these files; empty: the usual ones."""
    data_weight: float = 1.0
    """Weight of your own frames in the loss; the teacher's have 1."""
    seed: int = 0
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        given = [str(p.resolve()) if os.path.isfile(p := named(s)) else s for s in self.structures]
        object.__setattr__(self, "structures", given)
        object.__setattr__(self, "data", [str(named(s).resolve()) for s in self.data])
        # The report is executed in another folder.
        object.__setattr__(self, "teacher", teachers.anchored(self.teacher))
        for name in ("structures", "temperatures", "volumes", "rattle", "data"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.structures:
            raise InputError("distill: give at least one structure")
        for name in ("temperatures", "volumes", "rattle"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(
                    f"distill: {name} are {low:g} to {high:g}, must be 0 < low <= high"
                )
        if self.labels not in LABELS:
            raise InputError(f"distill: labels is {self.labels!r}, must be one of {LABELS}")
        if self.n_models < 2:
            raise InputError("distill: disagreement needs at least two models")
        for name in ("n_start", "max_frames", "max_minutes", "target_force_rmse", "n_steps",
                     "data_weight"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"distill: {name} is {getattr(self, name)}, must be positive")
        self.architecture(("H",))

    def architecture(self, species: tuple[str, ...], shortest: float = 1.5) -> HipnnConfig:
        """Student's architecture; ``shortest`` is the first sensitivity's distance, Angstrom."""
        try:
            numbers = SIZES.get(self.size) or tuple(int(part) for part in self.size.split("-"))
            features, sensitivities, layers = numbers
        except ValueError:
            known = ", ".join(SIZES)
            raise InputError(
                f"distill: size {self.size!r} is neither of {known} nor like 32-16-2"
            ) from None
        return HipnnConfig(
            features, sensitivities, layers, species=species, cutoff=self.cutoff,
            soft_min=shortest, soft_max=self.cutoff - 0.5, cusp_reg=self.cusp_reg,
        )  # fmt: skip


def keep(plan: Plan, folder: Path, begun: bool = True) -> None:
    """Write the plan into its folder, or raise InputError if the folder holds another one.

    Only budgets may change between calls: the frames in the folder depend on all other fields. A
    plan that has not ``begun``, say because its teacher could not label anything, may be replaced.
    """
    path = made(folder) / FILE
    if begun and path.exists():
        there = read(folder)
        changed = [f.name for f in fields(Plan) if getattr(there, f.name) != getattr(plan, f.name)]
        if strict := [name for name in changed if name not in BUDGETS]:
            raise InputError(f"{folder}: holds a distillation with another {', '.join(strict)}; "
                             "choose another folder or delete this one")  # fmt: skip
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(plan), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Plan:
    """Read the plan of a folder."""
    try:
        return Plan(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{folder}: holds no distillation ({FILE} is missing)") from None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{folder / FILE}: not a readable plan ({error})") from error
