"""Packed linear layers: the product, for any number of rows and any type."""

import pytest
import torch

from stepaudio.errors import ConfigError
from stepaudio.models.int8 import Int8Linear, Int8NormedLinear, check_int8
from stepaudio.models.packed import FusedNorm, HalfLinear, NormedLinear, PlainLinear, pack_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 40])
def test_products(num_rows: int, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(24, 16, dtype=dtype), torch.randn(24, dtype=dtype)
    # A view whose rows do not lie side by side, as halves of a projection are.
    x = torch.randn(num_rows, 32, dtype=dtype)[:, 8:24]
    base = torch.randn(num_rows, 24, dtype=dtype)
    kept = base.clone()
    with torch.inference_mode():
        assert torch.allclose(pack_linear(weight, bias)(x), x @ weight.T + bias, atol=1e-5)
        assert torch.allclose(pack_linear(weight)(x), x @ weight.T, atol=1e-5)
        added = pack_linear(weight).add_to(base, x)
    assert torch.allclose(added, base + x @ weight.T, atol=1e-5)
    assert torch.equal(base, kept)


def test_weights_that_float16_holds_are_kept_in_it() -> None:
    weight = torch.randn(24, 16).half().float()
    x = torch.randn(3, 16)
    packed = pack_linear(weight)
    assert isinstance(packed, HalfLinear)
    assert torch.allclose(packed(x), x @ weight.T, atol=1e-5)
    assert isinstance(pack_linear(weight + 1e-5), PlainLinear)


@pytest.mark.parametrize("num_rows", [1, 5])
def test_int8_products_are_near(num_rows: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64), torch.randn(96)
    weight[3] *= 1000  # every output has its own scale
    x, base = torch.randn(num_rows, 64), torch.randn(num_rows, 96)
    kept = base.clone()
    with torch.inference_mode():
        product = Int8Linear(weight, bias)(x) - bias
        added = Int8Linear(weight, None).add_to(base, x)
    expected = x @ weight.T
    bound = 0.02 * weight.norm(dim=1) * x.norm(dim=1, keepdim=True)
    assert ((product - expected).abs() < bound).all()
    assert ((added - base - expected).abs() < bound).all()
    assert torch.equal(base, kept)


def test_int8_behind_a_norm_is_near() -> None:
    torch.manual_seed(0)
    weight, bias, norm = torch.randn(96, 64), torch.randn(96), torch.rand(64) + 0.5
    x = torch.randn(5, 64) * torch.tensor([1e-5, 1e-2, 1.0, 30.0, 1e4])[:, None]
    expected = NormedLinear(FusedNorm(norm, 1e-6), pack_linear(weight, bias))(x)
    found = Int8NormedLinear(norm, 1e-6, weight, bias)(x)
    assert ((found - expected).norm(dim=1) < 0.02 * (expected - bias).norm(dim=1) + 1e-3).all()


@pytest.mark.parametrize("behind_norm", [False, True])
def test_no_int8_row_depends_on_its_neighbours(behind_norm: bool) -> None:
    torch.manual_seed(0)
    weight, norm = torch.randn(200, 96), torch.rand(96)
    layer = Int8NormedLinear(norm, 1e-6, weight, None) if behind_norm else Int8Linear(weight, None)
    x = torch.randn(33, 96) * torch.logspace(-3, 3, 33)[:, None]
    x[7] = 0
    x[9] = float("nan")
    together = layer(x)
    alone = torch.cat([layer(row[None]) for row in x])
    finite = torch.arange(33) != 9
    assert torch.equal(together[finite], alone[finite])
    assert torch.isfinite(together[finite]).all()
    assert not together[7].any()
    assert torch.equal(layer(x[10:12]), together[10:12])


def test_a_weight_of_zeros_in_int8() -> None:
    weight = torch.randn(4, 8)
    weight[2] = 0
    product = Int8Linear(weight, None)(torch.randn(2, 8))
    assert not product[:, 2].any()
    assert product[:, 1].all()


def test_int8_needs_float32_on_a_cpu() -> None:
    check_int8(torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigError, match="float32 model on a CPU"):
        check_int8(torch.device("cpu"), torch.bfloat16)
    with pytest.raises(ConfigError, match="float32 model on a CPU"):
        check_int8(torch.device("cuda"), torch.float32)
