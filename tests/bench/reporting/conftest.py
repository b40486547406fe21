"""A made-up suite and its report, for the tests of this folder."""

import pytest

from refine.bench.reporting.report import build

from .synthetic import results


@pytest.fixture(scope="module")
def of():
    return results(problems=8, seeds=6)


@pytest.fixture(scope="module")
def blocks(of):
    return build([of])
