"""Networks of the sizes that are in use, compiled by the command: the smallest one, or all with `--full-backend`."""

from __future__ import annotations

import pytest

from tinyopt.disk_cache import default_cache_dir
from tools.light_architectures.comparing import compare
from tools.light_architectures.models import NAMES

_SMALLEST = "squeezenet"


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_with_random_weights_gives_what_onnxruntime_gives(
    name: str, pytestconfig: pytest.Config
) -> None:
    """And a damaged one, with one channel of a convolution at 0, would not."""
    if name != _SMALLEST and not pytestconfig.getoption("full_backend"):
        pytest.skip("--full-backend compiles the larger ones, too")
    figures = compare(name, default_cache_dir())
    assert figures.error <= 1
    assert figures.error_without_channel > 1
