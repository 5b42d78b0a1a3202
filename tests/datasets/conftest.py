"""Two-species frames, files in the layout of ANI-Al, and a server to download them from."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree

from kdlib.datasets import registry
from kdlib.datasets.registry import git_blob_id


@pytest.fixture(scope="session")
def alloy() -> list[Atoms]:
    """Forty periodic 4-atom cells of copper and gold, labeled by ASE's EMT, with stresses."""
    rng = np.random.default_rng(1)
    return [by_emt(_cell(rng, k)) for k in range(40)]


@pytest.fixture(scope="session")
def clusters() -> list[Atoms]:
    """Twelve isolated Cu2Au molecules, labeled by ASE's EMT."""
    rng = np.random.default_rng(2)
    shape = np.array([[0, 0, 0], [2.5, 0, 0], [1.2, 2.3, 0]])
    return [by_emt(Atoms("Cu2Au", shape + rng.normal(0, 0.1, (3, 3)))) for _ in range(12)]


def _cell(rng: np.random.Generator, seed: int) -> Atoms:
    atoms = bulk("Cu", a=rng.uniform(3.7, 4.1), cubic=True)
    atoms.symbols[rng.permutation(4)[: rng.integers(1, 4)]] = "Au"
    atoms.rattle(0.1, seed=seed)
    return atoms


def by_emt(atoms: Atoms) -> Atoms:
    """Label a frame."""
    atoms.calc = EMT()
    wanted = ["energy", "forces", *(["stress"] if atoms.pbc.all() else [])]
    found = {name: atoms.calc.get_property(name, atoms) for name in wanted}
    atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


@pytest.fixture(scope="session")
def dimers() -> list[Atoms]:
    """Aluminum dimers in cells, 120 of them, that repel the more the closer they are."""
    rng = np.random.default_rng(3)
    frames = []
    for distance in rng.uniform(2.2, 2.9, 120):
        apart = distance * _direction(rng)
        atoms = Atoms("Al2", [[1, 1, 1], [1, 1, 1] + apart], cell=[9, 10, 11], pbc=True)
        push = 8 * np.exp(1 - distance) * apart / distance
        energy = -140 + 8 * np.exp(1 - distance)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=[-push, push])
        frames.append(atoms)
    return frames


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


@pytest.fixture(scope="session")
def write_h5() -> Callable[..., Path]:
    """Return a function that writes frames of equal size as one group of an ANI-Al file."""

    def write(
        path: Path,
        frames: Sequence[Atoms],
        sign: int = 1,
        dtype: str = "float32",
        **changed: Any,
    ) -> Path:
        known = [atoms.calc.results for atoms in frames]
        content = {
            "species": np.array(frames[0].get_chemical_symbols(), dtype="S2"),
            "coordinates": np.array([atoms.positions for atoms in frames], dtype=dtype),
            "cell": np.array([atoms.cell.array for atoms in frames], dtype=dtype),
            "energy": np.array([results["energy"] for results in known]) / Hartree,
            "force": np.array([sign * r["forces"] / Hartree for r in known], dtype=dtype),
        } | changed
        with h5py.File(path, "a") as file:
            group = file.create_group(f"Al{len(frames[0]):03d}")
            for name, values in content.items():
                if values is not None:
                    group.create_dataset(name, data=values)
        return path

    return write


@pytest.fixture(scope="session")
def pack() -> Callable[..., bytes]:
    """Return a function that packs files, and members without content, as a gzipped tar archive."""

    def packed(files: dict[str, bytes], *odd: tarfile.TarInfo) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            for member in odd:
                tar.addfile(member)
        return stream.getvalue()

    return packed


class Server(ThreadingHTTPServer):
    """Serves one archive under any address and records the requests."""

    content = b""
    cut = False
    asked: list[str]

    @property
    def url(self) -> str:
        """Address without a path."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802 - the base class calls it so
        server: Server = self.server
        server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: len(server.content) // 2 if server.cut else None])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server that stands for GitHub, with an empty cache of downloads."""
    with Server(("127.0.0.1", 0), _Handler) as running:
        running.asked = []
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("KDLIB_MIRROR", running.url)
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def serve(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bytes], None]:
    """Return a function that makes an archive the one that is expected and served."""
    card = registry.entry("ani-al")

    def offer(archive: bytes) -> None:
        server.content = archive
        path = tmp_path / "offered"
        path.write_bytes(archive)
        known = card | {"git_blob": git_blob_id(path)}
        monkeypatch.setattr(registry, "entry", lambda name: known)

    return offer
