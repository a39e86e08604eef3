"""Routes are permutations with the order their name says."""

import pytest
import torch

from crossmamba.ops import route_table

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
