"""Pooled activations: what a loop over texts gives, for any batches, padding and special tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from saebench.codes import SparseCodes
from saebench.data import stream_from_ids
from saebench.evals.pooling import PooledSite, PooledSubject, Texts, pool_codes, pool_rows
from saebench.passes import PassRequest, Subject, SubjectView, as_stack, run_pass
from tests.small_runs import D_SAE, ragged, random_sae
from tests.tiny_models import WIDTH, shared_model

SITE, BOS = "blocks.1.hook_resid_post", 1
POOLS = ["mean", "last", "max", 0, 2, -2]
LENGTHS = [9, 5, 2, 7, 1, 8, 3]
IDS = [[BOS, *row] for row in ragged(LENGTHS)]
IDS[3][4] = BOS  # a special token in the middle, which does not count
IDS[4] = [BOS, BOS]  # a text without a counted token


def sparse_codes(dense: torch.Tensor) -> SparseCodes:
    rows, columns = dense.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(dense))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    return SparseCodes(dense[rows, columns], columns.int(), offsets, dense.shape[1])


def pooled_naively(x: np.ndarray, pool: str | int) -> np.ndarray:
    """One text ``x[t, width]`` of counted tokens, one row."""
    if not len(x):
        return np.zeros(x.shape[1])
    if pool in ("mean", "max"):
        return x.mean(0) if pool == "mean" else x.max(0)
    place = -1 if pool == "last" else int(pool)
    return x[place] if -len(x) <= place < len(x) else np.zeros(x.shape[1])


def one_by_one(sae, pool) -> dict[str, np.ndarray]:
    """The oracle: each text alone and unpadded, dense codes, a loop over texts."""
    model = shared_model("gpt_neox")
    site = model.site(SITE)
    rows = {"x": [], "latents": [], "x_hat": []}
    for ids in IDS:
        whole = model.prefix(torch.tensor([ids]), None, [site]).at(site)[0]
        x = whole[torch.tensor(ids) != BOS]
        codes = sae.encode(x)
        found = {"x": x, "latents": codes, "x_hat": sae(x)}
        for name, value in found.items():
            rows[name].append(pooled_naively(value.double().numpy(), pool))
    return {name: np.stack(value) for name, value in rows.items()}


def pooled_in_a_pass(sae, pool, batch_size: int = 3, **options):
    model = shared_model("gpt_neox")
    site, texts = model.site(SITE), stream_from_ids(IDS, mask="special", special_ids=(BOS,))
    shared, own = PooledSite(len(IDS), pool), PooledSubject(len(IDS), pool, **options)
    request = PassRequest([Subject.at("a", sae, site)], {as_stack(site): [shared]}, {"a": [own]})
    run_pass(model, texts.batches(batch_size), request)
    return shared, own


@pytest.mark.parametrize("k", [4, None])
@pytest.mark.parametrize("pool", POOLS)
def test_pooled_rows_are_those_of_each_text_alone_without_padding_and_special_tokens(pool, k):
    sae = random_sae(k=k)
    shared, own = pooled_in_a_pass(sae, pool)
    expected = one_by_one(sae, pool)
    np.testing.assert_allclose(shared.x, expected["x"], atol=2e-5)
    np.testing.assert_allclose(own.latents.toarray(), expected["latents"], atol=2e-5)
    np.testing.assert_allclose(own.x_hat, expected["x_hat"], atol=2e-5)
    assert shared.x.shape == (len(IDS), WIDTH)
    assert {shared.x.dtype, own.x_hat.dtype, own.latents.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_does_not_matter(pool, batch_size):
    sae = random_sae(k=None)
    (site, own), (other_site, other) = (
        pooled_in_a_pass(sae, pool, size) for size in (3, batch_size)
    )
    np.testing.assert_allclose(site.x, other_site.x, atol=2e-5)
    np.testing.assert_allclose(own.latents.toarray(), other.latents.toarray(), atol=2e-5)
    np.testing.assert_array_equal(own.n_counted, other.n_counted)


def test_a_text_without_a_counted_token_is_a_row_of_zeros_and_is_counted():
    shared, own = pooled_in_a_pass(random_sae(k=None), "mean")
    assert shared.n_empty == own.n_empty == 1
    assert not shared.x[4].any()
    assert not own.latents[[4]].nnz
    np.testing.assert_array_equal(own.n_counted, [9, 5, 2, 6, 0, 8, 3])


def test_latents_are_compressed_rows_that_store_no_zero():
    _, own = pooled_in_a_pass(random_sae(), "mean")
    latents = own.latents
    assert isinstance(latents, sparse.csr_array)
    assert latents.shape == (len(IDS), D_SAE)
    assert (latents.data != 0).all()
    assert latents.has_sorted_indices
    assert own.latents is not None  # asked for twice
    np.testing.assert_array_equal(own.latents.toarray(), latents.toarray())


def test_rows_follow_sequence_ids_in_whatever_order_batches_come():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(6, 5, generator=generator).relu()
    x = torch.randn(6, 3, generator=generator)
    own = PooledSubject(4, "mean")
    for tokens, ids in (([0, 1, 2], [3, 3, 0]), ([3, 4, 5], [1, 1, 1])):
        rows = x[tokens]
        own.update(SubjectView(rows, rows, sparse_codes(codes[tokens]), rows, torch.tensor(ids)))
    expected = [codes[2], codes[3:].mean(0), torch.zeros(5), codes[:2].mean(0)]
    np.testing.assert_allclose(own.latents.toarray(), torch.stack(expected), atol=1e-6)
    np.testing.assert_allclose(own.x_hat[[3, 0]], [x[:2].mean(0), x[2]], atol=1e-6)
    assert own.n_empty == 1


def test_the_largest_code_is_zero_unless_the_latent_fires_on_every_token():
    dense = torch.tensor([[-2.0, -1.0, 0.0], [-3.0, 0.0, 4.0], [-5.0, 0.0, 0.0]])
    texts = Texts.of(torch.tensor([7, 7, 9]))
    found = pool_codes(sparse_codes(dense), texts, "max").toarray()
    np.testing.assert_array_equal(found, [[-2, 0, 4], [-5, 0, 0]])
    np.testing.assert_array_equal(found, pool_rows(dense, texts, "max"))


@pytest.mark.parametrize("pool", POOLS)
def test_signed_codes_pool_as_their_dense_copies_do(pool):
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(40, 12, generator=generator)
    dense[torch.rand(40, 12, generator=generator) < 0.6] = 0
    ids = torch.arange(40) // 7
    found = pool_codes(sparse_codes(dense), Texts.of(ids), pool).toarray()
    expected = [pooled_naively(dense[ids == i].double().numpy(), pool) for i in range(6)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("pool", POOLS)
def test_codes_that_never_fire_pool_to_empty_rows(pool):
    found = pool_codes(sparse_codes(torch.zeros(4, 6)), Texts.of(torch.tensor([0, 0, 1, 1])), pool)
    assert found.shape == (2, 6)
    assert found.nnz == 0


def test_a_batch_without_counted_tokens_changes_nothing():
    own = PooledSubject(2, "mean")
    none = torch.zeros(0, 3)
    own.update(
        SubjectView(none, none, sparse_codes(torch.zeros(0, 5)), none, torch.zeros(0).long())
    )
    assert own.latents.shape == (2, 5)
    assert own.n_empty == 2
    assert not own.x_hat.any()


def test_means_of_many_values_keep_their_last_digits():
    x = torch.full((20_000, 1), 0.1)
    found = pool_rows(x, Texts.of(torch.zeros(20_000, dtype=torch.int64)), "mean")
    assert float(found) == float(x[0])


def test_without_reconstruction_nothing_has_to_be_decoded():
    own = PooledSubject(1, "mean", reconstruction=False)
    x = torch.ones(2, 3)
    own.update(SubjectView(x, x, sparse_codes(x), None, torch.zeros(2, dtype=torch.int64)))
    assert not own.needs_predictions
    assert not own.needs_reconstruction
    np.testing.assert_array_equal(own.latents.toarray(), [[1, 1, 1]])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("backwards", [False, True])
def test_latents_are_numbered_with_four_bytes(pool, backwards):
    own = PooledSubject(6, pool, reconstruction=False)
    batches = [torch.tensor([0, 0, 1, 2]), torch.tensor([3, 4, 4, 4, 5])]
    for ids in batches[::-1] if backwards else batches:
        dense = torch.rand(len(ids), D_SAE, generator=torch.Generator().manual_seed(len(ids)))
        none = torch.empty(0)
        own.update(SubjectView(none, none, sparse_codes(dense), none, ids))
    for rows in (*own._codes, own.latents):
        assert rows.indices.dtype == rows.indptr.dtype == np.int32
        assert rows.data.dtype == np.float32
