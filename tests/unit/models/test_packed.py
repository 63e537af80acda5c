"""Packed linear layers: the product, for any number of rows and any type."""

import pytest
import torch

from stepaudio.models.packed import PackedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 40])
def test_products(num_rows: int, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(24, 16, dtype=dtype), torch.randn(24, dtype=dtype)
    # A view whose rows do not lie side by side, as halves of a projection are.
    x = torch.randn(num_rows, 32, dtype=dtype)[:, 8:24]
    base = torch.randn(num_rows, 24, dtype=dtype)
    kept = base.clone()
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(weight, bias)(x), x @ weight.T + bias, atol=1e-5)
        assert torch.allclose(PackedLinear(weight)(x), x @ weight.T, atol=1e-5)
        added = PackedLinear(weight).add_to(base, x)
    assert torch.allclose(added, base + x @ weight.T, atol=1e-5)
    assert torch.equal(base, kept)
