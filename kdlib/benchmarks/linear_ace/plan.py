"""Sizes of the linear ACE, how they are fitted, and how they are timed."""

from dataclasses import dataclass

from kdlib import processes
from kdlib.errors import InputError

#: Ways to run a model in MD, all under ASE: the package's calculator in JAX, and its C++ kernel.
ENGINES = ("jax", "kernel")
#: Parts that errors are given for.
EVALUATED = ("valid", "test", "compressed", "transfer")


@dataclass(frozen=True)
class AceSize:
    """A basis: which products of radial functions and spherical harmonics it holds."""

    order: int
    """Correlation order: neighbors that a function couples at most."""
    degree: int
    """Largest total degree of a function, n + 1.5 l summed over its factors."""

    @property
    def label(self) -> str:
        """Name in results."""
        return f"order {self.order}, degree {self.degree}"


@dataclass(frozen=True)
class AceProtocol:
    """Settings; the defaults are the full comparison."""

    sizes: tuple[AceSize, ...] = (AceSize(2, 14), AceSize(3, 14))
    """Fitted bases; for one species these have 116 and 383 functions besides 14 pair functions."""
    cutoff: float = 7.0
    """Cutoff of the basis, Angstrom."""
    energy_weights: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0)
    """Candidates for the weight of the energies over what the evidence finds. In the least squares,
    an error of an energy counts relative to a noise that grows with the root of the number of
    atoms, and an error of a force component relative to another noise. Both, and the
    regularization, maximize the evidence of the training part; a weight then divides the noise of
    the energies. The validation part chooses among them by the two fields below.
    """
    selection_energy: float = 1.0
    selection_force: float = 10.0
    """Weights per eV and eV/Angstrom of RMSE + MAE of the cell energy and of force components in
    the validation error that chooses; by default those that select the weights of a HIP-NN.
    """
    requirements: tuple[str, ...] = ("ace-jax==0.4.1", "matscipy==1.3.1")
    """Packages of the environment. The second finds neighbors fast; ace-jax takes it if present."""
    n_atoms: tuple[int, ...] = (500, 4000)
    """Atoms of the timed cells, multiples of the small liquid's (aluminum: 500)."""
    threads: tuple[int, ...] = ()
    """Threads of the timed runs; empty for one, and one for each core. The kernel has one."""
    n_steps: int = 50
    """Steps of each timed block; about two rebuilds at a skin of 1 Angstrom."""
    repeats: int = 6
    """Largest number of blocks."""
    warmup_steps: int = 20
    """Steps before the first block. They compile, also for the first rebuild of the list."""
    budget: float = 100.0
    """Seconds after which a run begins no further block."""
    skin: float = 1.0
    """Skin of the neighbor list, Angstrom."""
    timestep: float = 1.0
    """Time step, fs."""
    temperature: float = 1200.0
    """Temperature of the velocities at the start, K."""
    melt_steps: int = 250
    """Steps of 2 fs for each of melting, quenching and equilibration, under EMT."""

    def __post_init__(self) -> None:
        if len({size.label for size in self.sizes}) < max(len(self.sizes), 1):
            raise InputError("linear ACE: give at least one size, and none twice")
        if not self.energy_weights or min(self.energy_weights) <= 0:
            raise InputError("linear ACE: give at least one weight of energies, all positive")
        counts = (self.n_steps, self.repeats, self.warmup_steps, *self.n_atoms, *self.threads)
        if min(counts) < 1:
            raise InputError("linear ACE: steps, repeats, atoms and threads must be positive")

    @property
    def all_threads(self) -> tuple[int, ...]:
        """Numbers of threads of the timed runs."""
        return self.threads or tuple(sorted({1, processes.cores()}))


FULL = AceProtocol()
#: Checks in some minutes that everything works; its numbers mean little.
QUICK = AceProtocol(
    sizes=(AceSize(2, 6),), cutoff=5.0, energy_weights=(1.0, 10.0), n_atoms=(500,), threads=(1,),
    n_steps=5, repeats=2, melt_steps=20,
)  # fmt: skip
