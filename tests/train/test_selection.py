import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.train.selection import batch_top_k, top_k


def mask_of(active, n):
    mask = torch.zeros(n, active.d_sae, dtype=torch.bool)
    for token in range(n):
        mask[token, active.indices[active.offsets[token] : active.offsets[token + 1]].long()] = True
    return mask


def test_top_k_keeps_the_largest_of_each_token():
    pre = torch.tensor([[3.0, -1.0, 5.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    assert mask_of(top_k(pre, 2), 2).int().tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]


def test_batch_top_k_shares_its_budget_among_tokens():
    pre = torch.tensor([[9.0, 8.0, 7.0, 0.0], [1.0, 2.0, 3.0, 6.0]])
    assert mask_of(batch_top_k(pre, 2), 2).int().tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 9),
    d_sae=st.integers(1, 40),
    k=st.integers(1, 40),
    seed=st.integers(0, 99),
    concentration=st.sampled_from([0.0, 3.0, 30.0]),
)
def test_batch_top_k_equals_the_sort_of_everything(n, d_sae, k, seed, concentration):
    k = min(k, d_sae)
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n, d_sae, generator=generator)
    pre[0] += concentration  # one token that takes far more than its share
    expected = torch.zeros(n * d_sae, dtype=torch.bool)
    expected[pre.reshape(-1).argsort(descending=True)[: k * n]] = True
    assert torch.equal(mask_of(batch_top_k(pre, k), n), expected.view(n, d_sae))
