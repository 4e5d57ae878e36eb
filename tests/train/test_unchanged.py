"""Training of one SAE at fixed seeds gives the figures it always gave: a new feature must not move them.

The numbers are of the trainer before it read several models. They hold to rounding on any machine;
they are to be replaced only where training is changed on purpose.
"""

import pytest

from saebench.train import Recipe, train_on

SETTINGS = {"d_sae": 64, "k": 3, "tokens": 20_000, "batch_size": 256, "lr": 5e-3}
SETTINGS |= {"dead_window": 1024, "buffer_size": 4096, "log_every": 20}
OTHER = {"b_dec_init": "mean", "grad_clip": 0.05, "aux_k": 5, "dtype": "bfloat16", "seed": 3}

GOLDEN = {
    "topk": {
        "first": (0.1080680564045906, 0.4967877531227627, 0.020147180184721947),
        "last": (0.05537933111190796, 0.6979911124643746, 0.03234187513589859),
        "squares": {"W_enc": 54.72442473455925, "b_enc": 45.482318873800075, "b_dec": 5286.3257},
        "threshold": 0.0,
    },
    "batchtopk": {
        "first": (0.11150773614645004, 0.37419096362846027, 0.019936995580792427),
        "last": (0.06217486783862114, 0.666693700145357, 0.03479194641113281),
        "squares": {"W_enc": 51.283715311543574, "b_enc": 76.5068423855765, "b_dec": 5346.7427},
        "threshold": 0.5969856212507935,
    },
}


@pytest.fixture(scope="module")
def run(planted):
    recipes = [
        Recipe(architecture="topk", **SETTINGS),
        Recipe(architecture="batchtopk", **SETTINGS, **OTHER),
    ]
    heldout = planted.sample(1000, seed=9)
    return train_on(planted.chunks(1), recipes, heldout=heldout, progress=False)


@pytest.mark.parametrize(("which", "name"), list(enumerate(GOLDEN)))
def test_figures_and_weights_are_those_they_were(run, which, name):
    golden, history = GOLDEN[name], run.histories[which]
    for row, expected in ((history[0], golden["first"]), (history[-1], golden["last"])):
        found = [row["loss"], row["fve"], row["grad_norm"]]
        assert found == pytest.approx(expected, rel=1e-3)
    trainer = run.trainers[which]
    assert trainer.threshold == pytest.approx(golden["threshold"], rel=1e-3)
    assert trainer.scale == pytest.approx(0.060432787869995466, rel=1e-6)
    tensors = trainer.sae().state_dict()
    for tensor, expected in golden["squares"].items():
        assert float(tensors[tensor].double().square().sum()) == pytest.approx(expected, rel=1e-3)
