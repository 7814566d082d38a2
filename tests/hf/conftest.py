import pytest

from gridprune import families

from .cases import CASES
from .kit import Case
from .kit import model as cached_model


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture
def net(case):
    return cached_model(case)


@pytest.fixture
def limits(net):
    """What the case's stock model cannot do with the installed transformers, and why."""
    return {name: limit for name, limit in families.find(net).limits.items() if limit.holds}
