"""`python -m al_pbe`, in a checkout: label frames, study the protocol, ship results, and more."""

import argparse
import os
import sys
from pathlib import Path

from al_pbe import archive, campaign, labeling, models, protocol
from kdlib import datasets, pipeline, progress, results
from kdlib.__main__ import BAD_INPUT
from kdlib.errors import InputError
from kdlib.files import named
from kdlib.hipnn import catalog
from kdlib.pipeline.profile import Profile


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        with progress.reader_may_leave():
            options = _parser().parse_args(arguments)
            progress.show_lines()
            return options.command(options)
    except InputError as error:
        sys.stderr.write(f"al_pbe: {error}\n")
        return BAD_INPUT


def label(options: argparse.Namespace) -> int:
    """Label missing frames by DFT."""
    labeling.require()
    numbers = [k for part in options.frames for k in part]
    written = campaign.run(numbers, options.out)
    sys.stdout.write(f"{len(written)} frames labeled in {options.out}\n")
    return 0


def study(options: argparse.Namespace) -> int:
    """Compare settings of the training on al-pbe's training and validation parts."""
    frames = datasets.load("al-pbe")
    found = protocol.run(frames, datasets.split(frames), options.results, workers=options.workers)
    path = results.save(found, options.results / "protocol.nc")
    sys.stdout.write(f"{protocol.table(found)}\nwritten to {path}\n")
    return 0


def ship(options: argparse.Namespace) -> int:
    """Put the best teacher and students of a run into the package."""
    for folder in models.export(options.results, options.students, options.out):
        sys.stdout.write(f"{folder}\n")
    return 0


def pack(options: argparse.Namespace) -> int:
    """Keep the results of a run, with its models and histories."""
    out = options.out or Path(__file__).with_name(options.results.name)
    for path in archive.pack(options.results, out, options.without_weights):
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    return 0


def notebook(options: argparse.Namespace) -> int:
    """Execute the notebook on the reference data."""
    here = Path(__file__).parent
    # The kernel works in the results folder, and this package is not installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    # A step's record covers the modules of kdlib but not those of al_pbe, so always rerun.
    pipeline.run(Profile("al_pbe"), options.results, notebooks=here, force=True)
    sys.stdout.write(f"executed in {options.results / 'notebooks'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m al_pbe", description=__doc__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = commands.add_parser("label", help="label more frames by DFT (GPAW: make dft)")
    command.set_defaults(command=label)
    command.add_argument("frames", type=_range, nargs="+", metavar="FIRST:STOP", help="indices")
    command.add_argument("--out", type=named, default="labels", help="folder (%(default)s)")
    command = commands.add_parser("protocol", help="study training settings; an hour, resumable")
    command.set_defaults(command=study)
    where = Path("results") / "protocol"
    command.add_argument("--results", type=named, default=where, help="folder (%(default)s)")
    command.add_argument("--workers", type=int, help="trainings side by side (one per core)")
    command = commands.add_parser("models", help="put models of a run into the package")
    command.set_defaults(command=ship)
    where = Path("results") / "laptop"
    command.add_argument("--results", type=named, default=where, help="folder (%(default)s)")
    command.add_argument("--out", type=named, default=catalog.FOLDER, help="instead of kdlib's own")
    command.add_argument("--students", nargs="+", metavar="SIZE", help="e.g. 16-8-1",
                         default=["16-8-1", "32-16-2", "64-20-2"])  # fmt: skip
    command = commands.add_parser("archive", help="keep a run's results, models and histories")
    command.set_defaults(command=pack)
    where = Path("results") / "laptop"
    command.add_argument("--results", type=named, default=where, help="folder (%(default)s)")
    command.add_argument("--out", type=named, help="folder (al_pbe/PROFILE)")
    command.add_argument("--without-weights", nargs="+", default=[], metavar="PATTERN",
                         help="trainings of which only the history is kept")  # fmt: skip
    command = commands.add_parser("notebook", help="execute 00_reference_data.ipynb")
    command.set_defaults(command=notebook)
    where = Path("results") / "al_pbe"
    command.add_argument("--results", type=named, default=where, help="folder (%(default)s)")
    return parser


def _range(text: str) -> range:
    first, _, stop = text.partition(":")
    if not (first.isdecimal() and (stop or first).isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a range like 4000:4030")
    return range(int(first), int(stop) if stop else int(first) + 1)


if __name__ == "__main__":
    sys.exit(main())
