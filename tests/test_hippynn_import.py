"""hippynn is imported without torch's compiler, and its compiled kernels still compile."""

import subprocess
import sys

import pytest

from kdlib import _hippynn


@pytest.mark.parametrize("module", ["network", "fused", "stock"])
def test_a_fresh_process_neither_warns_nor_loads_the_compiler(module):
    """Whichever module is the first to import hippynn."""
    code = f"import sys; import kdlib.{module}; sys.exit('torch._dynamo' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_function_is_compiled_once_at_its_first_call():
    asked = []

    def compiler(function, **options):
        asked.append(options)
        return lambda x: 10 * function(x)

    compiled = _hippynn._at_first_call(compiler)(abs, dynamic=True)
    assert asked == []
    assert compiled(-2) == compiled(2) == 20
    assert asked == [{"dynamic": True}]


def test_the_compiler_is_put_back():
    import torch

    before = torch.compile
    with _hippynn.lean():
        assert torch.compile is not before
    assert torch.compile is before
