"""hippynn is imported without torch's compiler, and its compiled kernels still compile."""

import subprocess
import sys

from kdlib import leanimport

LOADED = "import sys; import kdlib.network; sys.exit('torch._dynamo' in sys.modules)"


def test_a_fresh_process_does_not_load_the_compiler():
    assert subprocess.run([sys.executable, "-c", LOADED], check=False).returncode == 0


def test_a_function_is_compiled_once_at_its_first_call():
    asked = []

    def compiler(function, **options):
        asked.append(options)
        return lambda x: 10 * function(x)

    compiled = leanimport._at_first_call(compiler)(abs, dynamic=True)
    assert asked == []
    assert compiled(-2) == compiled(2) == 20
    assert asked == [{"dynamic": True}]


def test_the_compiler_is_put_back():
    import torch

    before = torch.compile
    with leanimport.lean():
        assert torch.compile is not before
    assert torch.compile is before
