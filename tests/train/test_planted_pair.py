"""Two linear models whose directions are known: which are shared, which are private, what was changed."""

from collections.abc import Iterator

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from saebench.train import Recipe, train_on
from saebench.train.columns import Columns

D, SHARED, PRIVATE = 24, 32, 8  # dimensions; directions of both models, and of each alone
N_ATOMS, K = SHARED + 2 * PRIVATE, 3
BASE_SIZE, CHAT_SIZE = 7.0, 2.0  # one model's activations are larger than the other's
ANNEALED = {"k_start": 12, "k_anneal": 0.2}
BASE, CHAT = (0, D), (D, 2 * D)


def atoms() -> tuple[Tensor, Tensor]:
    """Directions ``[N_ATOMS, D]`` of both models, turned against each other; zero where one has none."""
    generator = torch.Generator().manual_seed(5)
    base, chat = (
        F.normalize(torch.randn(N_ATOMS, D, generator=generator), dim=1) for _ in range(2)
    )
    chat[SHARED : SHARED + PRIVATE] = 0
    base[SHARED + PRIVATE :] = 0
    return base, chat


def streams(seed: int, rows: int = 2048) -> Iterator[Tensor]:
    """Activations of both models side by side, ``[rows, 2 D]``."""
    base, chat = atoms()
    offset = torch.randn(2 * D, generator=torch.Generator().manual_seed(7))
    sizes = torch.tensor([BASE_SIZE, CHAT_SIZE]).repeat_interleave(D)
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.rand(rows, N_ATOMS, generator=generator).topk(K, dim=1).indices
        codes = 1.5 + 3 * torch.rand(rows, K, generator=generator)
        signal = (codes[..., None] * torch.cat([base, chat], 1)[chosen]).sum(1)
        noise = 0.02 * torch.randn(rows, 2 * D, generator=generator)
        yield (signal + offset + noise) * sizes


def recipe(**changes):
    settings = {"others": ["chat"], "architecture": "batchtopk", "d_sae": 64, "k": K}
    settings |= {"tokens": 120_000, "batch_size": 256, "lr": 5e-3, "dead_window": 10_000}
    return Recipe(**{**settings, "buffer_size": 4096, "log_every": 1000, **changes})


def matched_cosines(rows: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute cosines of the best one-to-one matching of rows to true directions, and the rows matched."""
    cosine = (F.normalize(rows, dim=1) @ F.normalize(truth, dim=1).T).abs()
    row, column = linear_sum_assignment(-cosine.numpy())
    order = torch.from_numpy(row[column.argsort()])
    return cosine[order, torch.arange(len(truth))], order


@pytest.mark.parametrize(
    ("normalization", "annealed", "rate"),
    [("scale", {}, 0.97), ("standardize", {}, 0.97), ("centre", ANNEALED, 0.93)],
)
def test_a_crosscoder_finds_which_directions_are_shared_and_which_are_private(
    normalization, annealed, rate
):
    """Every planted direction is a latent, and its decoder norms, undone to raw units, say whose it is."""
    run = train_on(
        streams(1),
        [recipe(reads="models", normalization=normalization, tokens=250_000, **annealed)],
        heldout=next(streams(9)),
        progress=False,
    )
    last, sae = run.histories[0][-1], run.trainers[0].sae()
    assert min(last[name] for name in ("fve", "fve_0", "fve_1")) > 0.9
    assert last["l0"] == pytest.approx(K, rel=0.1)
    sizes = torch.tensor([BASE_SIZE, CHAT_SIZE])
    rows = sae.normalization.directions(sae.W_dec).view(-1, 2, D) / sizes[:, None]
    cosine, latents = matched_cosines(rows.flatten(1), torch.cat(atoms(), 1))
    assert cosine.mean() > rate
    norms = sae.decoder_norms()[latents] / sizes
    delta = (1 + (norms[:, 1] - norms[:, 0]) / norms.max(1).values) / 2
    right = torch.cat(
        [
            (delta[:SHARED] - 0.5).abs() < 0.1,
            delta[SHARED : SHARED + PRIVATE] < 0.1,
            delta[SHARED + PRIVATE :] > 0.9,
        ]
    )
    assert right.float().mean() >= rate


class TestADifferenceSae:
    """δ = chat − base, of directions that both models have, so that only ``changed`` ones are left."""

    CHANGED = 20

    def chunks(self, seed):
        base = atoms()[0]
        change = F.normalize(
            torch.randn(self.CHANGED, D, generator=torch.Generator().manual_seed(8))
        )
        generator = torch.Generator().manual_seed(seed)
        while True:
            signal = 20 * torch.randn(2048, N_ATOMS, generator=generator) @ base
            chosen = torch.rand(2048, self.CHANGED, generator=generator).topk(K, dim=1).indices
            codes = 1.5 + 3 * torch.rand(2048, K, generator=generator)
            delta = (codes[..., None] * change[chosen]).sum(1)
            yield torch.cat([signal, signal + delta + 0.3], 1)

    @pytest.mark.parametrize(("reads", "sign"), [("difference_ftb", 1.0), ("difference_bft", -1.0)])
    def test_finds_what_was_changed_with_its_sign(self, reads, sign):
        base, ft = BASE, CHAT
        parts = (ft, base) if sign > 0 else (base, ft)
        run = train_on(
            self.chunks(1),
            [recipe(reads=reads, d_sae=32)],
            columns=[Columns((parts,))],
            heldout=next(self.chunks(9)),
            progress=False,
        )
        assert run.histories[0][-1]["fve"] > 0.85
        sae = run.trainers[0].sae()
        truth = F.normalize(
            torch.randn(self.CHANGED, D, generator=torch.Generator().manual_seed(8))
        )
        cosine, latents = matched_cosines(sae.W_dec, truth)
        assert cosine.mean() > 0.95
        signed = F.cosine_similarity(sae.W_dec[latents], sign * truth)
        assert signed.mean() > 0.95


def test_saes_of_one_pass_are_those_of_passes_of_their_own():
    """Different readers of one buffer do not disturb each other."""
    short = {"tokens": 8000, "k": K}
    kinds = [
        (recipe(reads="models", **short), Columns.whole(2 * D)),
        (recipe(reads="difference_ftb", **short), Columns(((CHAT, BASE),))),
        (recipe(read_model=1, **short), Columns(((CHAT, None),))),
    ]
    recipes, columns = [list(each) for each in zip(*kinds, strict=True)]
    together = train_on(streams(1), recipes, columns=columns, progress=False)
    for which, (one, taken) in enumerate(kinds):
        alone = train_on(streams(1), [one], columns=[taken], progress=False).trainers[0].sae()
        assert torch.equal(alone.W_dec, together.trainers[which].sae().W_dec)
