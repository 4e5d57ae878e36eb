"""Peaks: the largest code of each latent in each text and its token, as a loop over tokens finds them."""

import numpy as np
import pytest
import torch

from saebench.data import stream_from_ids
from saebench.evals.peaks import PeakCodes
from saebench.passes import PassRequest, Subject, SubjectView, run_pass
from tests.codes_by_hand import sparse
from tests.small_runs import D_SAE, ragged, random_sae
from tests.tiny_models import shared_model

SITE, BOS = "blocks.1.hook_resid_post", 1
IDS = [[BOS, *row] for row in ragged([9, 5, 2, 7, 1, 8, 3])]
IDS[3][4] = BOS  # in the middle, where it does not count
IDS[4] = [BOS, BOS]  # a text without a counted token


def in_a_pass(sae, batch_size=3):
    model = shared_model("gpt_neox")
    peaks = PeakCodes(len(IDS), D_SAE)
    request = PassRequest([Subject.at("a", sae, model.site(SITE))], {}, {"a": [peaks]})
    texts = stream_from_ids(IDS, mask="special", special_ids=(BOS,))
    run_pass(model, texts.batches(batch_size), request)
    return peaks


@pytest.mark.parametrize("k", [4, None])
def test_peaks_are_those_of_a_loop_over_tokens_and_positions_count_in_the_sequence(k):
    sae, model = random_sae(k=k), shared_model("gpt_neox")
    site = model.site(SITE)
    peaks = in_a_pass(sae)
    values, places = peaks.values.toarray(), peaks.positions.toarray() - 1
    for text, ids in enumerate(IDS):
        codes = sae.encode(model.prefix(torch.tensor([ids]), None, [site]).at(site)[0]).numpy()
        counted = [place for place, one in enumerate(ids) if one != BOS]
        for latent in range(D_SAE):
            firing = [(codes[place, latent], place) for place in counted if codes[place, latent]]
            if not firing:
                assert (values[text, latent], places[text, latent]) == (0, -1)
                continue
            assert values[text, latent] == pytest.approx(max(firing)[0], abs=2e-5)
            # which of two near-equal codes is larger may depend on the batch
            near = [place for value, place in firing if value > max(firing)[0] - 1e-4]
            assert places[text, latent] in near


@pytest.mark.parametrize("batch_size", [1, 100])
def test_the_size_of_batches_does_not_matter(batch_size):
    one, other = in_a_pass(random_sae()), in_a_pass(random_sae(), batch_size)
    np.testing.assert_allclose(one.values.toarray(), other.values.toarray(), atol=2e-5)
    assert (one.positions != other.positions).nnz == 0


def viewed(codes, ids, positions):
    none = torch.zeros(len(ids), 0)
    ids, positions = torch.tensor(ids), torch.tensor(positions)
    return SubjectView(none, none, sparse(codes), None, ids, positions=positions)


def test_the_first_of_equal_tokens_is_kept_and_batches_come_in_any_order():
    peaks = PeakCodes(3, 3)
    peaks.update(viewed(torch.tensor([[0.0, 2, -1], [1, 2, -3]]), [2, 2], [4, 6]))
    peaks.update(viewed(torch.tensor([[0.0, 0, 1], [5, 0, 3], [4, 0, 3]]), [0, 0, 0], [0, 1, 2]))
    np.testing.assert_array_equal(peaks.values.toarray(), [[5, 0, 3], [0, 0, 0], [1, 2, -1]])
    np.testing.assert_array_equal(
        peaks.positions.toarray() - 1, [[1, -1, 1], [-1, -1, -1], [6, 4, 4]]
    )


def test_the_first_token_of_a_sequence_is_told_from_none():
    peaks = PeakCodes(1, 2)
    peaks.update(viewed(torch.tensor([[3.0, 0.0]]), [0], [0]))
    assert peaks.positions.toarray().tolist() == [[1, 0]]


def test_without_a_code_nothing_is_stored():
    peaks = PeakCodes(2, 4)
    assert peaks.values.nnz == 0
    peaks.update(viewed(torch.zeros(2, 4), [0, 1], [0, 0]))
    assert (peaks.values.nnz, peaks.positions.shape) == (0, (2, 4))


def test_matrices_are_made_once_and_again_after_another_batch():
    peaks = PeakCodes(2, 2)
    peaks.update(viewed(torch.tensor([[3.0, 0.0]]), [0], [0]))
    first = peaks.values
    assert peaks.values is first
    assert peaks.positions is peaks.positions
    peaks.update(viewed(torch.tensor([[0.0, 4.0]]), [1], [2]))
    np.testing.assert_array_equal(peaks.values.toarray(), [[3, 0], [0, 4]])
    np.testing.assert_array_equal(peaks.positions.toarray(), [[1, 0], [0, 3]])


def test_nothing_is_decoded_and_no_prediction_made_for_peaks():
    assert not PeakCodes.needs_predictions
    assert not PeakCodes.needs_reconstruction
