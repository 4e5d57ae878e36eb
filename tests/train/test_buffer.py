import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import DataError
from saebench.train.buffer import ShuffleBuffer


def numbered(n, sizes):
    """Rows 0 … n − 1 in chunks of the given sizes, in turn."""
    rows = torch.arange(n, dtype=torch.float32)[:, None]
    start = i = 0
    while start < n:
        size = sizes[i % len(sizes)]
        yield rows[start : start + size]
        start, i = start + size, i + 1


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    capacity=st.integers(2, 100),
    batch_size=st.integers(1, 40),
)
def test_every_activation_leaves_exactly_once(n, sizes, capacity, batch_size):
    buffer = ShuffleBuffer(numbered(n, sizes), capacity=capacity, batch_size=batch_size)
    batches = list(buffer)
    assert torch.cat(batches).squeeze(1).sort().values.tolist() == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


def test_looking_at_the_first_rows_loses_none():
    buffer = ShuffleBuffer(numbered(50, [7]), capacity=20, batch_size=5)
    assert buffer.fill().squeeze(1).tolist() == list(range(20))
    assert torch.cat(list(buffer)).squeeze(1).sort().values.tolist() == list(range(50))


def test_reads_no_further_ahead_than_its_capacity_and_one_chunk():
    read = 0

    def counting():
        nonlocal read
        for chunk in numbered(1000, [10]):
            read += len(chunk)
            yield chunk

    left = 0
    for batch in ShuffleBuffer(counting(), capacity=64, batch_size=8):
        assert read - left <= 64 + 10
        left += len(batch)


def test_storage_is_allocated_once():
    buffer = ShuffleBuffer(numbered(500, [30]), capacity=40, batch_size=10)
    place = buffer.fill().data_ptr()
    for _ in buffer:
        assert buffer._rows.data_ptr() == place
    assert buffer._rows.shape == (40, 1)


def test_batches_mix_what_came_apart_and_share_no_memory_with_the_buffer():
    buffer = ShuffleBuffer(numbered(4000, [100]), capacity=1000, batch_size=50)
    batches = list(buffer)
    spread = torch.stack([batch.std() for batch in batches[:40]])
    assert spread.min() > 150  # fifty rows in a row would have 14.6
    assert torch.cat(batches).squeeze(1).sort().values.tolist() == list(range(4000))


def test_the_order_depends_on_the_seed_alone():
    def order(sizes, seed):
        buffer = ShuffleBuffer(numbered(300, sizes), capacity=60, batch_size=10, seed=seed)
        return torch.cat(list(buffer)).squeeze(1).tolist()

    assert order([7], 0) == order([7], 0) == order([100], 0)
    assert order([7], 0) != order([7], 1)


def test_nothing_to_read_is_an_error():
    with pytest.raises(DataError, match="mask policy"):
        ShuffleBuffer(iter(()), capacity=10, batch_size=2).fill()
