"""Where work that comes in many pieces is done: processes of this machine, or a cluster, through joblib."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import RefineError
from .files import printable

__all__ = ["ENGINES", "parallel"]

ENGINES = ("local", "dask", "ray")


@contextlib.contextmanager
def parallel(engine: str, address: str | None, jobs: int | None) -> Iterator[None]:
    """Let ``joblib.Parallel()`` run in processes of this machine, or on a cluster through joblib's own backends.

    Parameters
    ----------
    engine : {"local", "dask", "ray"}
    address : str, optional
        Address of the cluster's scheduler; without it Dask and Ray start one on this machine.
    jobs : int, optional
        Processes; by default as many as there are.
    """
    import joblib

    if engine == "local":
        if address is not None:
            raise RefineError("--address is for --engine dask or ray; leave it out, or choose one")
        with joblib.parallel_config("loky", n_jobs=jobs or -1):
            yield
        return
    package = "distributed" if engine == "dask" else engine
    missing = RefineError(f"--engine {engine} is not installed: pip install {package}")
    if engine == "dask":
        try:
            from distributed import Client
        except ImportError:
            raise missing from None
        try:
            client = Client(address, timeout="10s")  # without an address: a cluster of this machine
        except (OSError, ValueError) as error:
            raise _silent("Dask scheduler", address, error) from None
        with client, joblib.parallel_config("dask", n_jobs=jobs or -1):
            yield
        return
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise missing from None
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError for other versions, gRPC's own
        raise _silent("Ray cluster", address, error) from None
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=jobs or -1):
            yield
    finally:
        ray.shutdown()


def _silent(what: str, address: str | None, error: Exception) -> RefineError:
    where = "on this machine" if address is None else f"at {printable(address)}"
    return RefineError(f"no {what} answers {where} ({printable(error)}); check --address")
