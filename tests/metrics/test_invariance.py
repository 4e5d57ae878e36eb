"""No metric depends on how the stream was cut, ordered or shared out."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.codes import SparseCodes
from saebench.metrics import baselines, prediction, reconstruction, sparsity
from saebench.metrics.catalogue import MAIN_PASS
from saebench.metrics.definitions import DEFINITIONS
from saebench.metrics.sums import group_of
from saebench.record import Measurement

N, D, D_SAE, VOCAB = 72, 5, 12, 11
# fewer groups than sequences, so that groups hold several
N_GROUPS = 16


class Sums:
    """Everything one checkpoint accumulates, fed with tokens of a fixed synthetic stream."""

    def __init__(self) -> None:
        reference = torch.full((D,), 0.5)
        self.site = reconstruction.SiteSums(reference, N_GROUPS)
        self.errors = reconstruction.ReconstructionSums(D, N_GROUPS)
        self.codes = sparsity.SparsitySums(D_SAE, N_GROUPS)
        self.floor = prediction.floor_sums(n_groups=N_GROUPS)
        self.spliced = prediction.spliced_sums(N_GROUPS)
        self.covariance = baselines.Covariance(reference)

    def update(self, stream: dict[str, torch.Tensor], tokens: np.ndarray) -> None:
        part = {name: column[tokens] for name, column in stream.items()}
        groups = group_of(part["ids"], N_GROUPS)
        self.errors.update(self.site.update(part["x"], groups), part["x_hat"])
        self.covariance.update(part["x"])
        rows, latents = part["f"].nonzero(as_tuple=True)
        offsets = torch.zeros(len(tokens) + 1, dtype=torch.int32)
        offsets[1:] = torch.bincount(rows, minlength=len(tokens)).cumsum(0)
        codes = SparseCodes(part["f"][rows, latents], latents.int(), offsets, D_SAE)
        self.codes.update(codes, part["ids"])
        clean = prediction.clean_part(part["clean"], part["targets"])
        prediction.add_clean(self.floor, clean, groups)
        for floor in ("zero", "mean"):
            losses = prediction.against_clean(clean, part[floor])
            prediction.add_floor(self.floor, floor, losses, groups)
        prediction.add_spliced(
            self.spliced, prediction.against_clean(clean, part["spliced"]), groups
        )

    def merge(self, other: "Sums") -> None:
        for name, mine in vars(self).items():
            mine.merge(getattr(other, name))

    def measurements(self) -> dict[str, Measurement]:
        how = {"n_sequences": 24, "n_resamples": 40}
        found = reconstruction.measurements(self.site, self.errors, **how)
        found |= sparsity.measurements(self.codes, **how)
        found |= prediction.measurements(self.floor, self.spliced, **how)
        eigenvalues = self.covariance.eigenvalues()
        return found | baselines.measurements(eigenvalues, 3, n_tokens=N, n_sequences=24)


def stream_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(N, D) + 3
    clean = 3 * normal(N, VOCAB)
    return {
        "ids": torch.arange(N) // 3,
        "x": x,
        "x_hat": x + 0.3 * normal(N, D),
        "f": normal(N, D_SAE).sub(1).relu(),
        "clean": clean,
        "spliced": clean + 0.2 * normal(N, VOCAB),
        "zero": 3 * normal(N, VOCAB),
        "mean": clean + 3 * normal(N, VOCAB),
        "targets": clean.argmax(1),
    }


def sums_of(stream: dict[str, torch.Tensor], *batches: np.ndarray) -> Sums:
    sums = Sums()
    for tokens in batches:
        sums.update(stream, tokens)
    return sums


def assert_same(found: dict[str, Measurement], expected: dict[str, Measurement]) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        for bound in ("value", "low", "high"):
            ours, theirs = getattr(found[name], bound), getattr(one, bound)
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), cuts=st.lists(st.integers(0, N), max_size=5))
def test_batches_do_not_matter(seed, cuts):
    stream = stream_of(seed)
    whole = sums_of(stream, np.arange(N))
    pieces = sums_of(stream, *np.split(np.arange(N), sorted(cuts)))
    assert_same(pieces.measurements(), whole.measurements())
    assert pieces.codes.alive_curve() == whole.codes.alive_curve()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), cut=st.integers(0, N))
def test_order_does_not_matter(seed, cut):
    stream = stream_of(seed)
    order = np.random.default_rng(seed).permutation(N)
    shuffled = sums_of(stream, order[:cut], order[cut:])
    assert_same(shuffled.measurements(), sums_of(stream, np.arange(N)).measurements())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 50), shard=st.lists(st.integers(0, 2), min_size=N, max_size=N))
def test_shards_do_not_matter_nor_the_order_in_which_they_are_merged(seed, shard):
    stream = stream_of(seed)
    owner = np.array(shard)
    parts = [np.flatnonzero(owner == i) for i in range(3)]
    expected = sums_of(stream, np.arange(N)).measurements()
    for order in ((0, 1, 2), (2, 0, 1)):
        shards = [sums_of(stream, parts[i]) for i in order]
        shards[1].merge(shards[2])
        shards[0].merge(shards[1])
        assert_same(shards[0].measurements(), expected)


def test_every_metric_of_the_catalogue_was_there_but_for_the_random_sae():
    found = sums_of(stream_of(0), np.arange(N)).measurements()
    assert {one.name for one in found.values()} == {one.id for one in MAIN_PASS} - {
        "fve_random_init",
        "fve_lowest_reading",
    }
    for measured in found.values():
        assert measured.value is not None, measured
        low, high = DEFINITIONS[measured.name].range
        assert low is None or measured.value >= low
        assert high is None or measured.value <= high
