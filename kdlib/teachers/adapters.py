r"""The forms of a teacher's name, and adapters of two teachers to ASE.

ASE's embedded-atom potentials get atomic energies,

.. math:: E_i = F(\rho_i) + \tfrac12 \sum_j \varphi(r_{ij})

(DOI 10.1103/PhysRevB.29.6443): each atom gets half of a pair's energy, as in LAMMPS.

CHGNet (DOI 10.1038/s42256-023-00716-3) gives energies per atom and stresses in GPa; its calculator
converts both (our tests check that by finite differences). Its site energies, like the total,
contain the element energies of its composition model, and add up to the total.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes
from ase.calculators.eam import EAM
from ase.stress import full_3x3_to_voigt_6_stress

from kdlib import hipnn
from kdlib.errors import InputError
from kdlib.files import named
from kdlib.geometry.cells import half_open
from kdlib.hipnn.calculator import drop_stale, torch_device
from kdlib.hipnn.potential import WEIGHTS
from kdlib.teachers.packages import quiet, require, silent_loading
from kdlib.teachers.teacher import Card, Ensemble, Teacher

if TYPE_CHECKING:
    from chgnet.model.dynamics import CHGNetCalculator


class AtomicEAM(EAM):
    """:class:`ase.calculators.eam.EAM` with the property ``energies`` (not for ADP files)."""

    implemented_properties: ClassVar[list[str]] = [*EAM.implemented_properties, "energies"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Iterable[str] = ("energy",),
        system_changes: Iterable[str] = all_changes,
    ) -> None:
        """Fill ``results``, with ``energies`` on request."""
        drop_stale(self, atoms)
        properties = list(properties)
        others = [name for name in properties if name != "energies"] or ["energy"]
        # ASE's calculator looks at the configuration anew only if it is said to have changed.
        changes = list(system_changes) if self.results else all_changes
        super().calculate(atoms, others, changes)
        if "energies" in properties and self.form != "adp":
            self.results["energies"] = self._atomic_energies()

    def _atomic_energies(self) -> np.ndarray:
        densities = zip(self.index, self.total_density, strict=True)
        energies = np.array([float(self.embedded_energy[k](rho)) for k, rho in densities])
        for i, k in enumerate(self.index):
            near, offsets = self.neighbors.get_neighbors(i)
            vectors = self.atoms.positions[near] + offsets @ self.atoms.cell.array
            r = np.linalg.norm(vectors - self.atoms.positions[i], axis=1)
            inside = r <= self.cutoff
            pairs = zip(self.index[near[inside]], r[inside], strict=True)
            energies[i] += sum(float(self.phi[k, other](d)) for other, d in pairs) / 2
        return energies


#: Weights in CHGNet's wheel.
VERSIONS = ("0.3.0", "0.2.0", "r2scan")


def calculator(version: str, device: str) -> "CHGNetCalculator":
    """CHGNet's ASE calculator for one of :data:`VERSIONS`; an isolated atom is an error."""
    if version not in VERSIONS:
        raise InputError(f"CHGNet has no weights {version!r}; there are {', '.join(VERSIONS)}")
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    class Calculator(CHGNetCalculator):
        """CHGNet's calculator for periodic cells, in float64 and Voigt's order."""

        def calculate(self, atoms: Atoms | None = None, *args: Any, **kwargs: Any) -> None:
            atoms = self.atoms if atoms is None else atoms
            if rule := half_open(atoms):
                raise InputError(f"CHGNet: the configuration {rule}")
            if not atoms.pbc.all():
                raise InputError("CHGNet needs a cell that is periodic in three directions")
            with quiet():
                super().calculate(atoms, *args, **kwargs)
            self.results |= {
                name: np.asarray(self.results[name], dtype=float) for name in ("forces", "energies")
            }
            self.results["energy"] = self.results["free_energy"] = float(self.results["energy"])
            stress = np.asarray(self.results["stress"], dtype=float)
            self.results["stress"] = full_3x3_to_voigt_6_stress((stress + stress.T) / 2)

    Calculator.__name__ = CHGNetCalculator.__name__
    return Calculator(
        CHGNet.load(model_name=version, use_device=device, verbose=False),
        use_device=device,
        on_isolated_atoms="error",
        return_site_energies=True,
    )


#: How a teacher can be named.
FORMS = (
    "sevennet:7net-l3i5, sevennet:7net-0, sevennet:FILE, chgnet, chgnet:0.3.0, mace:FILE, emt, "
    "eam:FILE, kdlib:RUN_DIR, package.module:factory, an ASE calculator, or a list of these"
)
#: Weights in SevenNet's wheel that need no further choice.
SEVENNET = ("7net-l3i5", "7net-0", "7net-0_22may2024")
_ALONE = ("chgnet", "emt")
_OF_FILES = ("sevennet", "mace", "eam", "kdlib")
_EXTRA = "pip install 'kdlib[teachers]'"
_MACE = "pip install mace-torch (in another environment than SevenNet, which needs another e3nn)"
_MPTRJ = (
    "float32: energies are rounded at 1e-7 of their size",
    "trained close to the relaxed crystals of Materials Project: far from them, such models are "
    "known to be too soft (DOI 10.1038/s41524-024-01500-6)",
)

Named = str | BaseCalculator | Teacher | Ensemble


def load(
    spec: Named | Sequence[Named], probe: Atoms | None = None, device: str = "auto"
) -> Teacher | Ensemble:
    """Teacher from a name or an ASE calculator, or an ensemble from a list of these.

    Weights of SevenNet, CHGNet or MACE may execute code in the file, and a factory executes its
    author's code; ``kdlib:RUN_DIR`` executes nothing.

    Parameters
    ----------
    spec
        One of :data:`FORMS`.
    probe
        A configuration to label right away, to verify what the teacher provides.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``, for networks.

    Raises
    ------
    InputError
        The name has none of the forms, its package or file is missing, or it does not lead to an
        ASE calculator.
    TeacherError
        The probe can't be labeled.
    """
    if isinstance(spec, list | tuple):
        members = [load(member, None, device) for member in spec]
        members = [part for one in members for part in getattr(one, "members", (one,))]
        teacher = members[0] if len(members) == 1 else Ensemble(members)
    elif isinstance(spec, str):
        teacher = _named(spec, str(torch_device(device)))
    elif isinstance(spec, Teacher | Ensemble):
        teacher = spec
    else:
        teacher = Teacher(type(spec).__name__, spec)
    if probe is not None:
        teacher.label(probe)
    return teacher


def anchored(spec: str) -> str:
    """Name of a teacher that another working folder understands, too: its path is absolute."""
    kind, _, rest = spec.partition(":")
    is_path = kind in _OF_FILES and rest not in ("", *SEVENNET) and os.path.exists(named(rest))
    return f"{kind}:{named(rest).resolve()}" if is_path else spec


def _named(spec: str, device: str) -> Teacher:
    kind, colon, rest = spec.partition(":")
    if kind in _KINDS and (rest or (kind in _ALONE and not colon)):
        try:
            with silent_loading():
                return _KINDS[kind](os.path.expanduser(rest), device)
        except InputError:
            raise
        except Exception as error:
            reason = next(iter(str(error).splitlines()), "")
            raise InputError(f"teacher {spec!r}: {type(error).__name__}: {reason}") from error
    if kind in _KINDS or not rest:
        raise _unknown(spec)
    return _from_factory(spec, kind, rest)


def _unknown(spec: str) -> InputError:
    return InputError(f"{spec!r} names no teacher; there are {FORMS}")


def _sevennet(model: str, device: str) -> Teacher:
    require("sevenn", _EXTRA)
    if model not in SEVENNET and not Path(model).is_file():
        raise InputError(f"sevennet:{model}: is neither a file nor one of {', '.join(SEVENNET)}, "
                         "the weights that come with SevenNet")  # fmt: skip
    from sevenn.calculator import SevenNetCalculator

    card = Card(
        "sevenn",
        "SevenNet's output for each atom, with the element's reference (property energies)",
        _MPTRJ if model in SEVENNET else (),
        () if model in SEVENNET else (model,),
    )
    return Teacher(f"sevennet:{model}", SevenNetCalculator(model, device=device), card)


def _chgnet(version: str, device: str) -> Teacher:
    require("chgnet", _EXTRA)
    version = version or VERSIONS[0]
    card = Card(
        "chgnet",
        "CHGNet's site energies, with the element energies of its composition model",
        (*_MPTRJ, "periodic cells without isolated atoms only"),
    )
    return Teacher(f"chgnet:{version}", calculator(version, device), card)


def _mace(path: str, device: str) -> Teacher:
    """MACE from a model file, a pickle: loading it may execute code in the file.

    Written for the documented interface and not tested with MACE itself, which can't be installed
    beside SevenNet: ``energies`` contain the energies of isolated atoms, ``node_energy`` does not.
    """
    require("mace", _MACE)
    if not Path(path).is_file():
        raise InputError(f"mace:{path}: no such file")
    from mace.calculators import MACECalculator

    card = Card(
        "mace-torch",
        "MACE's node energies, with the energy of the isolated atom (property energies)",
        ("kdlib's adapter was not tested with MACE itself", "the model file may execute code"),
        (path,),
    )
    return Teacher(f"mace:{path}", MACECalculator(model_paths=path, device=device), card)


def _emt(rest: str, device: str) -> Teacher:
    from ase.calculators.emt import EMT

    if rest:
        raise _unknown(f"emt:{rest}")
    card = Card("ase", caveats=("effective-medium theory: a model, not an approximation of DFT",))
    return Teacher("emt", EMT(), card)


def _eam(path: str, device: str) -> Teacher:
    if not Path(path).is_file():
        raise InputError(f"eam:{path}: no such file")
    how = "embedding energy and half of each pair's energy"
    return Teacher(f"eam:{path}", AtomicEAM(potential=path), Card("ase", how, files=(path,)))


def _kdlib(run_dir: str, device: str) -> Teacher:
    potential = hipnn.load(run_dir)
    files = tuple(str(potential.run_dir / name) for name in (hipnn.CONFIG, WEIGHTS))
    card = Card("kdlib", "HIP-NN's atomic energies", files=files)
    return Teacher(f"kdlib:{run_dir}", potential.calculator(device=device), card)


def _from_factory(spec: str, module: str, name: str) -> Teacher:
    try:
        with quiet():
            home = import_module(module)
            calculator = getattr(home, name)()
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"teacher {spec!r}: needs {error.name}, which is missing") from None
        raise InputError(f"{spec!r}: no module {error.name!r} on the path; a teacher is one of "
                         f"{FORMS}") from None  # fmt: skip
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(f"teacher {spec!r}: {type(error).__name__}: {reason}") from error
    code = getattr(home, "__file__", None)
    card = Card(files=(code,) if code else (), is_complete=False)
    return Teacher(spec, calculator, card)


_KINDS: dict[str, Callable[[str, str], Teacher]] = {
    "sevennet": _sevennet,
    "chgnet": _chgnet,
    "mace": _mace,
    "emt": _emt,
    "eam": _eam,
    "kdlib": _kdlib,
}
