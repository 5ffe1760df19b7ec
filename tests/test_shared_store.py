"""A population on disk by several processes: who has what, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_comp import distributed
from fedjax_comp.run_directory import RunDirectoryError
from fedjax_comp.shared_store import SharedStore, file_name


def test_files_of_another_number_of_processes_are_refused(tmp_path):
    (tmp_path / file_name(1, 2)).touch()
    with pytest.raises(RunDirectoryError, match="go on with --num_processes=2 "):
        SharedStore(tmp_path, np.zeros(3), 5)
    assert [path.name for path in tmp_path.iterdir()] == [file_name(1, 2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int32", "uint8"])
def test_what_one_process_has_is_there_to_the_bit(dtype):
    rng = np.random.default_rng(0)
    x = (-rng.normal(size=(5, 3)) * 100 * (rng.random((5, 3)) > 0.5)).astype(
        jnp.dtype(dtype)
    )
    tree = {"x": x, "none": np.zeros((5, 0)), "scalar": np.asarray(x[0, 0])}
    found = distributed.total(tree)
    for name, whole in tree.items():
        assert found[name].dtype == jnp.asarray(whole).dtype
        assert np.asarray(found[name]).tobytes() == whole.tobytes()
    assert found["x"].sharding.is_fully_replicated
    assert len(found["x"].sharding.device_set) == jax.device_count()
