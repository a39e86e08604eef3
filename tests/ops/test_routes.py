"""Routes are permutations with the order their name says."""

import pytest
import torch

from crossmamba.ops import RouteTable, route_table

CLIP = ("THW+", "THW-", "TWH+", "TWH-", "HWT+", "HWT-", "WHT+", "WHT-", "HTW+", "HTW-", "WTH+", "WTH-")


def test_a_name_lists_the_axes_from_slowest_to_fastest():
    table = route_table(["HW+", "WH+", "HW-", "WH-"], [(2, 3)])
    assert table.index.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


def test_hwt_walks_through_time_at_each_pixel():
    index = route_table(["HWT+"], [(3, 2, 2)]).index[0]  # token = t * 4 + h * 2 + w
    assert index[:6].tolist() == [0, 4, 8, 1, 5, 9]


def test_scales_follow_each_other_and_minus_reverses_them_all():
    forward, backward = route_table(["WH+", "WH-"], [(2, 2), (1, 2)]).index
    assert forward.tolist() == [0, 2, 1, 3, 4, 5]
    assert backward.tolist() == forward.flip(0).tolist()


def test_other_modality_keeps_its_end_and_is_reversed_within_itself():
    table = route_table(["THW+", "THW-"], [(2, 1, 1)], suffix=2)
    assert table.index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]
    table = route_table(["THW+", "THW-"], [(2, 1, 1)], prefix=2)
    assert table.index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]


@pytest.mark.parametrize(("prefix", "suffix"), [(0, 0), (3, 0), (0, 2)])
def test_all_twelve_routes_are_permutations_with_exact_inverses(prefix, suffix):
    table = route_table(CLIP, [(3, 4, 5), (3, 2, 2)], prefix=prefix, suffix=suffix)
    every = torch.arange(table.tokens)
    for index, inverse in zip(table.index, table.inverse, strict=True):
        assert torch.equal(index.sort().values, every)
        assert torch.equal(index[inverse], every)


def test_at_one_frame_thw_and_hwt_coincide():
    index = route_table(["THW+", "HWT+"], [(1, 4, 3)]).index
    assert torch.equal(index[0], index[1])


@pytest.mark.parametrize("name", ["HW", "HW*", "HH+", "THW+", "", "hw+"])
def test_unknown_names_are_refused_with_an_example(name):
    with pytest.raises(ValueError, match=r"unknown route .* HW\+"):
        route_table([name], [(2, 2)])


def test_tables_need_routes_grids_of_one_kind_and_sizes():
    for names, grids, kwargs in [
        ([], [(2,)], {}),
        (["L+"], [], {}),
        (["HW+"], [(2, 2), (2,)], {}),
        (["L+"], [(2,)], {"prefix": -1}),
    ]:
        with pytest.raises(ValueError):
            route_table(names, grids, **kwargs)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([[0, 1, 2], [0, 2, 2]], "route second is not a permutation of the tokens 0 to 2"),
        ([[0, 1, 3], [0, 2, 1]], "route first is not a permutation"),
        ([[0, -1, 1], [0, 2, 1]], "route first is not a permutation"),
        ([[0, 1, 2]], "2 names for 1 routes"),
        ([0, 1, 2], r"order is integers \(K, M\)"),
        ([[0.0, 1.0], [1.0, 0.0]], "got torch.float32"),
    ],
)
def test_an_order_that_a_kernel_would_read_outside_the_tokens_with_is_refused(order, message):
    with pytest.raises(ValueError, match=message):
        RouteTable(["first", "second"], torch.tensor(order))


def test_a_table_of_ones_own_is_kept_as_int32():
    table = RouteTable(["mine"], torch.tensor([[2, 0, 1]]))
    assert table.order.dtype == torch.int32
    assert (table.routes, table.tokens) == (1, 3)
    assert table.index.tolist() == [[2, 0, 1]]
    assert table.inverse.tolist() == [[1, 2, 0]]


def test_tables_are_cached_and_made_anew_for_a_compiler():
    first, second = (route_table(["HW+"], [(2, 3)]) for _ in range(2))
    assert first is second
    made = torch.ops.crossmamba.route_order("HW+", 2, [2, 3], 0, 0, torch.device("cpu"))
    assert torch.equal(made, first.order)
    assert made.data_ptr() != first.order.data_ptr(), "a compiler may write to what an operator returns"
