"""What a distillation began with beside its plan: structures, teacher, and the user's own frames.

Files may be edited between two calls with the same plan. Labels and rounds in the folder belong to
the former content, so another content is noticed, as numbers and not by the name of a file, and
refused in words. Only own frames may change as long as no round has learned from them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from kdlib.datasets import readers
from kdlib.distill import labeled
from kdlib.distill.labeled import Pool
from kdlib.distill.plan import Plan
from kdlib.errors import InputError
from kdlib.files import replacing
from kdlib.geometry import cells
from kdlib.teachers import Teacher

STRUCTURES, TEACHER = "structures.extxyz", "teacher.json"
#: Differences up to which labels count as those of the same teacher, rounded otherwise by another
#: processor or version: eV/atom, and eV/Angstrom (root mean square).
SAME_ENERGY, SAME_FORCE = 1e-3, 0.01


def check(
    plan: Plan, given: Sequence[Atoms], own: Sequence[Atoms], teacher: Teacher, folder: Path
) -> None:
    """Refuse structures, own frames or a teacher other than those that the folder builds on.

    They are noted as long as nothing is labeled.

    Raises
    ------
    InputError
        Says which one has changed, and what to do.
    """
    if pools := begun(folder):
        _check_structures(plan, given, folder)
        _check_teacher(pools[0], teacher, folder)
    if any(folder.glob("rounds/*/trajectories.nc")):
        _check_own(plan, own, folder)
    readers.write(list(given), folder / STRUCTURES)
    with replacing(folder / TEACHER) as part:
        part.write_text(json.dumps(teacher.origin, indent=1) + "\n", encoding="utf-8")


def begun(folder: Path) -> list[Pool]:
    """Pools of a folder that hold labels; empty if nothing is labeled yet."""
    pools = [Pool(folder / name) for name in (labeled.LABELS, labeled.OWN)]
    return [pool for pool in pools if pool.names]


def _check_structures(plan: Plan, given: Sequence[Atoms], folder: Path) -> None:
    path = folder / STRUCTURES
    then = list(readers.frames_of(path)) if path.exists() else given
    for name, one, other in zip(plan.structures, given, then, strict=True):
        if not cells.same(one, other):
            raise InputError(f"{name}: is another structure than when the distillation in {folder} "
                             "began; restore it, or choose another folder")  # fmt: skip


def _check_teacher(pool: Pool, teacher: Teacher, folder: Path) -> None:
    """Refuse a teacher that may be another one and gives another label than before."""
    path = folder / TEACHER
    then = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = teacher.origin
    if then == now and teacher.is_traceable:
        return
    changed = [key for key in now if then.get(key) != now[key]]
    frame, again = pool.asked_again(teacher)
    old, new = frame.calc.results, again.calc.results
    energy = abs(new["energy"] - old["energy"]) / len(frame)
    force = np.sqrt(np.mean((new["forces"] - old["forces"]) ** 2))
    if energy > SAME_ENERGY or force > SAME_FORCE:
        raise InputError(
            f"{' and '.join(changed) or teacher.name}: has changed since the distillation in "
            f"{folder} began: frame {frame.info['frame']} has an energy of {new['energy']:.6g} "
            f"eV, not {old['energy']:.6g}, and forces that differ by {force:.2g} eV/Angstrom; "
            "restore it, or choose another folder"
        )


def _check_own(plan: Plan, own: Sequence[Atoms], folder: Path) -> None:
    if own and not (folder / labeled.OWN / labeled.KNOWN).exists():
        raise InputError(
            f"{folder}: an earlier version of kdlib kept the labels of {', '.join(plan.data)} by "
            "position here; choose another folder"
        )
    if changes := labeled.changes(own, folder / labeled.OWN):
        raise InputError(
            f"{', '.join(plan.data)}: {changes} since the rounds in {folder} learned from them; "
            "restore the former frames, or choose another folder (with a copy of the folder "
            f"{labeled.OWN!r} in it, the teacher labels only what is new)"
        )
