"""Clusters that do not answer are one line."""

import sys
from types import ModuleType

import pytest

from refine import RefineError
from refine.parallel import parallel


@pytest.fixture
def ray(monkeypatch):
    """A stand-in of Ray, whose ``init`` raises what it is told to."""
    module, util, backend = ModuleType("ray"), ModuleType("ray.util"), ModuleType("ray.util.joblib")
    backend.register_ray = lambda: None
    for each in (module, util, backend):
        monkeypatch.setitem(sys.modules, each.__name__, each)

    def failing(error: Exception) -> None:
        def init(**_: object) -> None:
            raise error

        module.init = init

    return failing


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (
            "ray://10.0.0.1:1",
            ConnectionError("ray client connection timeout"),
            "no Ray cluster answers at ray://10.0.0.1:1 (ray client connection timeout); check --address",
        ),
        (
            "x:1",
            RuntimeError("Version mismatch:\n Ray 2.9"),
            "no Ray cluster answers at x:1 (Version mismatch:\\n Ray 2.9); check --address",
        ),
        (None, OSError("no room"), "no Ray cluster answers on this machine (no room); check --address"),
    ],
)
def test_a_ray_cluster_that_does_not_answer(ray, address, error, said) -> None:
    ray(error)
    with pytest.raises(RefineError) as caught, parallel("ray", address, 1):
        pass
    assert str(caught.value) == said


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("address", ["127.0.0.1", "nonsense://127.0.0.1:1"])
def test_a_dask_scheduler_that_cannot_be(address) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(RefineError) as caught, parallel("dask", address, 1):
        pass
    assert str(caught.value).startswith(f"no Dask scheduler answers at {address} (")
    assert str(caught.value).endswith("); check --address")
