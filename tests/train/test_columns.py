import torch

from saebench.train.columns import Columns

ROWS = torch.arange(24.0).view(2, 12)


def test_parts_stand_side_by_side_in_the_order_named():
    columns = Columns((((6, 8), None), ((0, 2), (4, 6))))
    expected = torch.cat([ROWS[:, 6:8], ROWS[:, 0:2] - ROWS[:, 4:6]], 1)
    assert torch.equal(columns.of(ROWS), expected)
    assert columns.width == 4


def test_spans_that_follow_each_other_become_one():
    joined = Columns.joined([((2, 4), None), ((4, 8), None), ((0, 2), None)])
    assert joined == Columns((((2, 8), None), ((0, 2), None)))
    assert torch.equal(joined.of(ROWS), ROWS[:, [2, 3, 4, 5, 6, 7, 0, 1]])


def test_a_difference_is_joined_to_nothing():
    parts = (((0, 2), None), ((2, 4), (4, 6)), ((4, 6), None))
    assert Columns.joined(parts) == Columns(parts)


def test_one_span_is_a_view():
    assert Columns.whole(12).of(ROWS).data_ptr() == ROWS.data_ptr()
    assert Columns((((3, 5), None),)).of(ROWS).untyped_storage().data_ptr() == ROWS.data_ptr()
