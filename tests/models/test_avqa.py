"""How question answering models join what they perceived with the question."""

import pytest
import torch

from crossmamba.errors import UsageError
from crossmamba.models import create_model
from crossmamba.models.avqa import NetworkMerge, ProductMerge, build_merge


def test_the_product_is_avsts_formula() -> None:
    feature, asked = torch.randn(3, 8), torch.randn(3, 8)
    assert torch.equal(ProductMerge()(feature, asked), torch.tanh(feature * asked))
    assert not list(ProductMerge().parameters())


def test_the_network_reads_both_and_their_product() -> None:
    torch.manual_seed(0)
    merge = NetworkMerge(8)
    feature, asked = torch.randn(3, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    merge(feature, asked).square().sum().backward()
    assert feature.grad is not None
    assert asked.grad is not None
    assert feature.grad.abs().min() > 0
    assert asked.grad.abs().min() > 0
    assert not torch.equal(merge(feature, torch.zeros(3, 8)), merge(torch.zeros(3, 8), torch.zeros(3, 8)))


def test_an_unknown_merge_is_named() -> None:
    with pytest.raises(UsageError, match="'product' or 'network', not 'sum'"):
        build_merge("sum", 8)


@pytest.mark.parametrize("name", ["av_mamba", "avst", "shmamba"])
def test_published_sizes_take_the_product_and_small_ones_the_network(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(create_model(name).merge, ProductMerge)
        assert isinstance(create_model(f"{name}_small").merge, NetworkMerge)
        assert isinstance(create_model(f"{name}_small", merge="product").merge, ProductMerge)


@pytest.mark.parametrize("name", ["av_mamba_small", "shmamba_small"])
@pytest.mark.parametrize("grid", ["null", [4], [0, 4], [4.0, 4], 4])
def test_a_picture_grid_is_two_numbers(name, grid):
    with pytest.raises(UsageError, match=r"picture_grid is .*expected two whole numbers"):
        create_model(name, picture_grid=grid)
