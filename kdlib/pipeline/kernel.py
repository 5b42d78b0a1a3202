"""A Jupyter kernel of the Python that runs the command, which ends with that command.

papermill takes whatever kernelspec is installed under the notebook's kernel name, which may be
another Python; `ThisPython` needs no kernelspec. The kernel's standard input is a pipe whose other
end the command holds: when the command ends in any way, SIGKILL included, the pipe closes, and the
kernel ends itself and all processes that it has started.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from kdlib import processes

NAME = "python3"
"""Kernel name in executed notebooks, so that JupyterLab opens them anywhere."""

_QUIET = "--IPKernelApp.log_level=50"  # local TCP is unencrypted; a shutdown interrupts first


class ThisPython(AsyncKernelManager):
    """Starts `sys.executable` as a kernel that ends with this process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(kernel_spec_manager=_OneKernel(), **options)
        self._write_end: int | None = None

    async def start_kernel(self, **options: Any) -> None:
        """Start the kernel with one end of a pipe as its standard input."""
        read_end, self._write_end = os.pipe()
        try:
            await super().start_kernel(stdin=read_end, **options)
        finally:
            os.close(read_end)

    async def cleanup_resources(self, restart: bool = False) -> None:
        """Close the pipe, and end what a crash of the kernel or of its client left running."""
        group = getattr(self.provisioner, "pgid", None)
        await super().cleanup_resources(restart)
        # nbclient leaves this one behind where an output cannot be written. It would fail unseen
        # until it is collected, and Python 3.11 may then break a parse that is under way.
        for task in asyncio.all_tasks():
            if task.get_coro().__name__ == "_async_poll_kernel_alive":
                task.cancel()
        if self._write_end is not None:
            os.close(self._write_end)
            self._write_end = None
            if group:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)


class _OneKernel(KernelSpecManager):
    """Knows one kernel, under whatever name."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        settings = processes.thread_settings(processes.threads())
        return KernelSpec(
            argv=[sys.executable, "-m", "kdlib.pipeline.kernel", "-f", "{connection_file}", _QUIET],
            env={name: os.environ.get(name, value) for name, value in settings.items()},
            display_name="Python of kdlib run",
            language="python",
        )


def main() -> None:
    """Run an ipykernel that watches its standard input for the end of its parent."""
    from ipykernel.kernelapp import launch_new_instance

    processes.end_with_parent(sys.stdin.fileno())
    launch_new_instance()


if __name__ == "__main__":
    main()
