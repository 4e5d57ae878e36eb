"""Gradients through the active latents equal those of the dense computation."""

import pytest
import torch

from saebench.train.selection import batch_top_k, top_k
from saebench.train.sparse import Active, decode_active, encode_active

N, D, F, K = 7, 5, 11, 3


@pytest.fixture
def world():
    generator = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.randn(*shape, generator=generator, requires_grad=True)

    return {"x": rand(N, D), "W_enc": rand(F, D), "b_enc": rand(F), "W_dec": rand(F, D)}


@pytest.mark.parametrize("select", [top_k, batch_top_k])
def test_reconstruction_and_all_gradients_equal_the_dense_ones(world, select):
    target = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    x, W_enc, b_enc, W_dec = world.values()

    pre = (x @ W_enc.T + b_enc).detach()
    active = select(pre, K)
    values = encode_active(x, W_enc, b_enc, pre, active).relu()
    sparse = decode_active(values, W_dec, active)
    sparse_grads = torch.autograd.grad((sparse - target).square().mean(), list(world.values()))

    mask = torch.zeros(N, F)
    mask[active.by_latent.tokens.long(), active.indices[active.by_latent.order].long()] = 1
    dense = ((x @ W_enc.T + b_enc).relu() * mask) @ W_dec
    dense_grads = torch.autograd.grad((dense - target).square().mean(), list(world.values()))

    torch.testing.assert_close(sparse, dense)
    for name, ours, theirs in zip(world, sparse_grads, dense_grads, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_gradients_are_those_of_finite_differences(world):
    x, W_enc, b_enc, W_dec = (
        tensor.detach().double().requires_grad_() for tensor in world.values()
    )
    active = top_k(x @ W_enc.T + b_enc, K)

    def encode(x, W_enc, b_enc):
        return encode_active(x, W_enc, b_enc, (x @ W_enc.T + b_enc).detach(), active)

    values = encode(x, W_enc, b_enc).detach().requires_grad_()
    assert torch.autograd.gradcheck(encode, (x, W_enc, b_enc))
    assert torch.autograd.gradcheck(lambda v, w: decode_active(v, w, active), (values, W_dec))


def test_a_latent_without_tokens_gets_no_gradient_and_a_token_without_latents_no_output(world):
    active = Active(
        torch.tensor([2, 2, 4], dtype=torch.int32), torch.tensor([0, 1, 1, 3], dtype=torch.int32), F
    )
    values = torch.tensor([1.0, 2.0, 3.0])
    W_dec = world["W_dec"]
    out = decode_active(values, W_dec, active)
    assert torch.equal(out[1], torch.zeros(D))
    (grad,) = torch.autograd.grad(out.sum(), [W_dec])
    expected = torch.zeros(F, D)
    expected[2], expected[4] = 3.0, 3.0
    torch.testing.assert_close(grad, expected)


def test_entries_by_latent_are_the_same_entries():
    pre = torch.randn(N, F, generator=torch.Generator().manual_seed(3))
    active = batch_top_k(pre, K)
    order, tokens, offsets = active.by_latent
    pairs = set()
    for latent in range(F):
        for entry in range(int(offsets[latent]), int(offsets[latent + 1])):
            assert int(active.indices[order[entry]]) == latent
            pairs.add((int(tokens[entry]), latent))
    given = {
        (token, int(latent))
        for token in range(N)
        for latent in active.indices[active.offsets[token] : active.offsets[token + 1]]
    }
    assert pairs == given
