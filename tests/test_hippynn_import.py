"""hippynn is imported without torch's compiler, and its compiled kernels still compile."""

import subprocess
import sys
import warnings

import pytest
import torch

from kdlib import _hippynn


@pytest.mark.parametrize("module", ["hipnn", "hipnn.kernels", "_hippynn"])
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
    before = torch.compile
    with _hippynn.lean():
        assert torch.compile is not before
    assert torch.compile is before


def test_importing_kdlib_leaves_hippynns_settings_alone(small_config):
    """Hippynn warns of low distances as before; a model of ours does not look for them."""
    from hippynn import settings

    from kdlib import hipnn

    assert settings.WARN_LOW_DISTANCES
    sensitivity = hipnn.build(small_config).network.interaction_layers[0].sensitivity
    near = torch.full((2,), 0.2, dtype=sensitivity.mu.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = sensitivity(near)
    with pytest.warns(UserWarning, match="underneath sensitivity range"):
        loud = _hippynn.InverseSensitivityModule.forward(sensitivity, near)
    assert torch.equal(quiet, loud)
