"""What all tests of circuits_jax share."""

import warnings

import pytest

from circuits_jax import TaskWarning


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Models of the tests are random: they do no task, and tests of that alone hear it said."""
    warnings.simplefilter("ignore", TaskWarning)
