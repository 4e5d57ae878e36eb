"""Sums per resampling group."""

import pytest
import torch

from saebench.errors import ConfigError
from saebench.metrics.sums import GroupSums, group_of, row_chunks, wide


def filled() -> GroupSums:
    sums = GroupSums(4, ("a",))
    groups = torch.tensor([0, 3, 3])
    sums.count(groups)
    sums.add("a", torch.tensor([1.0, 2.0, 4.0]), groups)
    return sums


def test_sums_are_kept_by_group_and_only_groups_with_tokens_are_present():
    sums = filled()
    assert sums.n.tolist() == [1, 0, 0, 2]
    assert sums.sums["a"].tolist() == [1, 0, 0, 6]
    assert sums.present.tolist() == [0, 3]
    assert sums.n_tokens == 3


def test_totals_and_means_of_all_groups_or_of_each_resample():
    sums = filled()
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    assert sums.total("a").tolist() == [7]
    assert sums.total("a", weights).tolist() == [7, 2]
    assert sums.tokens(weights).tolist() == [3, 2]
    assert sums.mean("a", weights).tolist() == pytest.approx([7 / 3, 1])


def test_shards_add_up():
    sums, other = filled(), filled()
    sums.merge(other)
    assert sums.total("a").tolist() == [14]
    assert sums.n.dtype == torch.int64


def test_sums_of_other_names_do_not_merge():
    with pytest.raises(ConfigError, match="groups and names"):
        filled().merge(GroupSums(4, ("b",)))


def test_a_group_is_the_sequence_while_there_are_no_more_sequences_than_groups():
    assert group_of(torch.tensor([0, 5, 511, 512, 1030])).tolist() == [0, 5, 511, 0, 6]


def test_row_chunks_cover_every_row_once_and_stay_small():
    chunks = list(row_chunks(1000, 8 * 768, torch.device("cpu")))
    assert [i for rows in chunks for i in range(rows.start, rows.stop)] == list(range(1000))
    assert max(rows.stop - rows.start for rows in chunks) * 8 * 768 <= 2**21
    assert list(row_chunks(0, 8, torch.device("cpu"))) == []


def test_sums_are_made_in_float64():
    sums, groups = GroupSums(1, ("a",)), torch.zeros(1000, dtype=torch.int64)
    sums.count(groups)
    sums.add("a", torch.full((1000,), 0.1), groups)
    assert float(sums.total("a")) == pytest.approx(1000 * float(torch.tensor(0.1)), rel=1e-14)
    assert wide(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float64


def test_sums_made_in_inference_mode_can_be_changed_outside_of_it():
    with torch.inference_mode():
        sums = filled()
    sums.merge(filled())
    sums.count(torch.tensor([1]))
    assert sums.n.tolist() == [2, 1, 0, 4]
