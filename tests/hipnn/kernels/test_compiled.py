import os

from kdlib.hipnn.kernels import compiled


def test_code_older_than_any_source_is_discarded(tmp_path):
    """Editing one source file removes what was compiled before, and only that."""
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    for name, time in (("a.py", 100), ("b.py", 200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    for name, time in (("old.nbi", 150), ("old.1.nbc", 150), ("new.nbi", 250), ("a.pyc", 50)):
        (cache / name).touch()
        os.utime(cache / name, (time, time))
    assert compiled.discard_stale(tmp_path) == 2
    assert sorted(path.name for path in cache.iterdir()) == ["a.pyc", "new.nbi"]
    assert compiled.discard_stale(tmp_path) == 0


def test_a_package_without_compiled_code_is_left_alone(tmp_path):
    """Nothing to discard before the first call."""
    (tmp_path / "a.py").touch()
    assert compiled.discard_stale(tmp_path) == 0
