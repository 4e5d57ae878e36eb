"""Planted groups of checkpoints: what two seeds share is known, and the suite finds exactly that."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fixtures.planted import (
    permuted_copy,
    random_unit,
    sharing_dictionaries,
    world,
)
from saebench.activations import TopK
from saebench.codes import SparseCodes
from saebench.evals.seeds import (
    CodeSample,
    FiringCounts,
    Member,
    SeedsEval,
    jackknife_over_checkpoints,
)
from saebench.evals.seeds.pair import compare_side
from saebench.metrics.definitions import definition
from saebench.passes import SubjectView
from saebench.protocols import SeedsProtocol
from saebench.sae import SAE, SAEConfig

PROTOCOL = SeedsProtocol(n_tokens=100_000, top_k=5)
LENGTH = 10


def sae_of(atoms, k=4, bias=None, encoder=None):
    """The SAE that reads and writes the same atoms ``[m, d]``, or reads others."""
    atoms = atoms.float()
    bias = torch.zeros(atoms.shape[1]) if bias is None else bias.float()
    cfg = SAEConfig("topk", atoms.shape[1], atoms.shape[0], atoms.shape[1], k=k)
    reads = atoms if encoder is None else encoder.float()
    W_enc = reads.T.contiguous()
    return SAE(cfg, TopK(k), W_enc=W_enc, W_dec=atoms.contiguous(), b_dec=bias, b_in=bias)


def member(name, sae, x=None, *, codes=None, protocol=PROTOCOL, batch=30):
    """A member that has seen the activations ``x[n, d]`` or the dense ``codes[n, m]``."""
    found = Member(
        name,
        sae,
        FiringCounts(sae.cfg.d_sae),
        CodeSample(sae.cfg.d_sae, protocol.n_tokens),
    )
    n = len(x) if codes is None else len(codes)
    for start in range(0, n, batch):
        rows = slice(start, start + batch)
        ids = torch.arange(start, min(start + batch, n)) // LENGTH
        part = sae.codes(x[rows].float()) if codes is None else sparse_codes(codes[rows])
        none = torch.empty(0)
        view = SubjectView(none, none, part, none, ids)
        found.firings.update(view)
        found.sample.update(view)
    return found


def sparse_codes(dense):
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = torch.zeros(len(dense) + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=len(dense)).cumsum(0)
    return SparseCodes(dense[rows, columns], columns.int(), offsets, dense.shape[1])


def evaluated(*members, protocol=PROTOCOL):
    """Values by short name, and the details."""
    found = SeedsEval(members, protocol)
    measured = found.measurements(n_tokens=1000, n_sequences=100)
    json.dumps(found.details(), allow_nan=False)
    return {item.name: item for item in measured.values()}, found.details()


def values(*members, **options):
    return {name: item.value for name, item in evaluated(*members, **options)[0].items()}


def test_a_permuted_copy_is_shared_whole_and_the_permutation_found():
    here = world(24, 32)
    x = here.sample(600, noise=0.01).x
    copy = permuted_copy(here.dictionary, seed=3)
    a = member("a", sae_of(here.dictionary, bias=here.bias), x)
    b = member("b", sae_of(copy.dictionary, bias=here.bias), x)
    found = values(a, b)
    floors = {name for name in found if "floor" in name}
    assert {name: value for name, value in found.items() if name not in floors} == pytest.approx(
        dict.fromkeys(found.keys() - floors, 1.0), abs=1e-5
    )
    side = compare_side(a, b, "decoder", 0.7)
    assert copy.permutation[side.every.columns].tolist() == list(range(24))


def test_a_sign_flipped_copy_keeps_the_absolute_cosines_and_loses_the_signed_ones():
    here = world(24, 32)
    x = here.sample(300).x
    copy = permuted_copy(here.dictionary, flipped=0.25)
    a, b = (member(n, sae_of(d), x) for n, d in (("a", here.dictionary), ("b", copy.dictionary)))
    found = values(a, b)
    for side in ("decoder", "encoder"):
        assert found[f"matched_abs_cosine_{side}"] == pytest.approx(1, abs=1e-6)
        # the 6 flipped atoms are orthogonal to all but their own opposite, and go to each other
        assert found[f"matched_cosine_{side}"] == pytest.approx(18 / 24, abs=1e-6)
        assert found[f"shared_{side}"] == 18 / 24
    assert found["shared_both"] == 18 / 24


def test_of_m_latents_the_s_shared_ones_are_found():
    left, right, pairs = sharing_dictionaries(16, 10, 32)
    x = world(24, 32).sample(200).x
    a, b = (member(n, sae_of(d), x) for n, d in (("a", left), ("b", right)))
    found, details = evaluated(a, b)
    for name in ("shared_decoder", "shared_encoder", "shared_both", "max_cosine_shared_decoder"):
        assert found[name].value == 10 / 16
    assert found["matched_cosine_decoder"].value == pytest.approx(10 / 16, abs=1e-6)
    every = compare_side(a, b, "decoder", 0.7).every
    assert every.above(0.7) == {tuple(pair) for pair in pairs.tolist()}
    table = details["pairs"][0]["decoder"]
    assert table["certified"]
    assert table["gap"] == pytest.approx(0, abs=1e-6)
    assert sum(table["histogram"]["counts"]) == table["denominator"] == 16
    assert table["histogram"]["counts"][-1] == 10
    assert table["curve"]["shared"][1:] == [10 / 16] * (len(table["curve"]["thresholds"]) - 1)


def test_a_shared_decoder_with_other_encoders_is_not_shared_in_both():
    here = world(12, 32)
    x = here.sample(200).x
    a = member("a", sae_of(here.dictionary), x)
    # a one-to-one copy whose encoder rows stand elsewhere: both matchings are perfect and disagree
    b = member("b", sae_of(here.dictionary, encoder=here.dictionary.roll(1, 0)), x)
    found = values(a, b)
    assert found["shared_decoder"] == found["shared_encoder"] == 1
    assert found["shared_both"] == 0


def test_independent_dictionaries_sit_on_the_chance_floor():
    x = world(24, 64).sample(200).x
    a, b = (member(str(s), sae_of(random_unit(256, 64, seed=s)), x) for s in (1, 2))
    found = values(a, b)
    assert found["matched_cosine_decoder"] == pytest.approx(0.335, abs=0.01)
    assert found["matched_cosine_decoder"] == pytest.approx(found["matched_cosine_floor"], abs=0.01)
    above = found["matched_cosine_decoder"] - found["matched_cosine_floor"]
    assert found["matched_cosine_above_floor"] == pytest.approx(above, abs=1e-12)
    assert found["matched_abs_cosine_decoder"] == pytest.approx(0.357, abs=0.01)
    assert found["shared_decoder"] == found["shared_floor"] == 0


def test_codes_of_a_permuted_copy_correlate_and_independent_ones_do_no_better_than_chance():
    here = world(24, 32)
    copy = permuted_copy(here.dictionary)
    x, other = here.sample(3000, seed=1).x, here.sample(3000, seed=2).x
    a = member("a", sae_of(here.dictionary, bias=here.bias), x)
    same = member("b", sae_of(copy.dictionary, bias=here.bias), x)
    apart = member("c", sae_of(copy.dictionary, bias=here.bias), other)
    found, details = evaluated(a, same)
    assert found["functional_correlation"].value == pytest.approx(1, abs=1e-5)
    assert found["functional_shared"].value == found["firing_jaccard"].value == 1
    null = details["pairs"][0]["functional"]["null"]
    assert found["functional_correlation"].detail["null"] == null
    unlike, details = evaluated(a, apart)
    functional = details["pairs"][0]["functional"]
    assert functional["decoder_matched"]["correlation"] == pytest.approx(null, abs=0.03)
    # chance lies so far below 0 that none of these pairs is above it: nothing is matched
    assert null < -0.5
    assert unlike["functional_correlation"].value is None
    assert "positive correlation" in unlike["functional_correlation"].reason
    # two latents that each fire on 4 of 24: both on 1/36 of the tokens, either on 11/36
    assert functional["decoder_matched"]["jaccard"] == pytest.approx(1 / 11, abs=0.01)
    assert found["matched_cosine_decoder"].value == pytest.approx(1, abs=1e-6)


def test_dead_latents_leave_the_alive_denominator_and_stay_in_the_other():
    here = world(24, 32, n_used=20)
    x = here.sample(600).x
    atoms = here.dictionary.clone()
    atoms[20:] = random_unit(4, 32, seed=9)
    a, b = (
        member(n, sae_of(d, bias=here.bias), codes=codes)
        for n, d, codes in (
            ("a", here.dictionary, here.sample(600).codes(24).float()),
            ("b", atoms, here.sample(600).codes(24).float()),
        )
    )
    assert len(x) == a.firings.n_tokens
    found, details = evaluated(a, b)
    pair = details["pairs"][0]
    assert pair["alive"] == {"a": 20, "b": 20, "both": 20}
    assert found["shared_decoder"].value == 20 / 24
    assert found["shared_decoder_alive"].value == found["shared_encoder_alive"].value == 1
    assert found["shared_decoder"].detail["denominators"] == [24]
    assert found["shared_decoder_alive"].detail["denominators"] == [20]
    assert pair["decoder"]["denominator_alive"] == 20
    assert pair["decoder"]["matched_cosine_alive"] == pytest.approx(1, abs=1e-6)


def test_a_dead_latent_takes_no_partner_from_an_alive_one():
    atoms = world(4, 8).dictionary
    blurred = torch.nn.functional.normalize(atoms[0] + 0.5 * atoms[3], dim=0)
    left = torch.stack((blurred, atoms[0], atoms[1]))  # row 1 is dead and nearer to b's row 0
    right = torch.stack((atoms[0], atoms[1], atoms[2]))
    codes = torch.rand(50, 3) + 0.5
    dead = codes.clone()
    dead[:, 1] = 0
    a, b = member("a", sae_of(left), codes=dead), member("b", sae_of(right), codes=codes)
    side = compare_side(a, b, "decoder", 0.7)
    assert side.every.above(0.7) == {(1, 0), (2, 1)}
    assert side.alive.above(0.7) == {(0, 0), (2, 1)}
    assert side.numbers["shared"] == 2 / 3
    assert side.numbers["shared_alive"] == 1


def test_different_numbers_of_latents_are_matched_as_a_rectangle():
    here = world(24, 32)
    x = here.sample(300).x
    a = member("a", sae_of(here.dictionary, bias=here.bias), x)
    b = member("b", sae_of(here.dictionary[:10], bias=here.bias), x)
    found, details = evaluated(a, b)
    assert found["shared_decoder"].value == 1
    assert found["shared_decoder"].detail["denominators"] == [10]
    pair = details["pairs"][0]
    assert pair["decoder"]["max_cosine_shared_a"] == 10 / 24
    assert pair["decoder"]["max_cosine_shared_b"] == 1
    assert found["max_cosine_shared_decoder"].value == pytest.approx((10 / 24 + 1) / 2)
    assert pair["latents"] == {"a": 24, "b": 10, "both": 10}


def test_top_k_overlap_goes_through_the_matching_and_states_its_chance():
    here = world(12, 16, k=2)
    order = torch.arange(11, -1, -1)
    often = torch.arange(12)  # latent i fires on i + 1 of 12 tokens
    codes = (torch.arange(12)[:, None] <= often).float().repeat(10, 1)
    a = member("a", sae_of(here.dictionary), codes=codes)
    b = member("b", sae_of(here.dictionary[order]), codes=codes[:, order])
    by_index = member("c", sae_of(here.dictionary[order]), codes=codes)
    found, details = evaluated(a, b)
    assert found["top_k_overlap"].value == 1
    assert details["pairs"][0]["top_k_chance"] == pytest.approx(5 / 12)
    # c's most frequent are the atoms that fire least in a
    assert values(a, by_index)["top_k_overlap"] == 0
    assert values(a, by_index, protocol=SeedsProtocol(top_k=8))["top_k_overlap"] == 4 / 8
    assert details["pairs"][0]["top_k"] == 5


def three(seed=0):
    """Three checkpoints: b is a with 4 of 16 atoms lost, c with 8 others lost."""
    atoms = world(40, 48, seed=seed).dictionary
    lost = {"a": [], "b": range(4), "c": range(8, 16)}
    spare = iter(range(16, 40))
    members = []
    for name, rows in lost.items():
        mine = atoms[:16].clone()
        for row in rows:
            mine[row] = atoms[next(spare)]
        members.append(member(name, sae_of(mine), world(40, 48, seed=seed).sample(300).x))
    return members


def test_three_checkpoints_are_averaged_over_pairs_with_a_jackknife_over_checkpoints():
    found, details = evaluated(*three())
    shared = [12 / 16, 8 / 16, 4 / 16]  # ab, ac, bc
    assert [pair["decoder"]["shared"] for pair in details["pairs"]] == shared
    one = found["shared_decoder"]
    assert one.value == 0.5
    without = [4 / 16, 8 / 16, 12 / 16]  # without a, b, c: the one pair that is left
    error = math.sqrt(2 / 3 * sum((value - 0.5) ** 2 for value in without))
    reach = 4.302652729911275 * error  # t of two degrees of freedom, two-sided 95 %
    assert (one.low, one.high) == (max(0, 0.5 - reach), min(1, 0.5 + reach))
    cosine = found["matched_cosine_decoder"]
    assert cosine.high - cosine.value == pytest.approx(min(reach, 0.5), abs=1e-6)
    assert one.interval == "delete-one-checkpoint jackknife, 95%, 3 checkpoints"
    assert one.detail["n_pairs"] == 3
    assert (one.detail["lowest"], one.detail["highest"]) == (0.25, 0.75)


def test_the_jackknife_leaves_out_a_checkpoint_with_all_its_pairs():
    ends, values = [("a", "b"), ("a", "c"), ("b", "c")], [0.6, 0.5, 0.4]
    found = jackknife_over_checkpoints("abc", ends, values)
    without = [0.4, 0.5, 0.6]  # of c and b, of a and c, of a and b: one pair is left each time
    error = math.sqrt(2 / 3 * sum((value - 0.5) ** 2 for value in without))
    reach = 4.302652729911275 * error  # t of two degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.5 - reach, 0.5 + reach))


def test_two_checkpoints_have_no_interval_and_say_why():
    found, _ = evaluated(*three()[:2])
    assert (found["shared_decoder"].low, found["shared_decoder"].high) == (None, None)
    assert found["shared_decoder"].reason == "no interval: two checkpoints make one pair"


def test_the_order_of_the_members_changes_only_the_order_of_pairs():
    members = three()
    first, details = evaluated(*members)
    second, turned = evaluated(*members[::-1])
    assert first == second

    def key(pair):
        return pair["a"], pair["b"]

    assert sorted(details["pairs"], key=key) == sorted(turned["pairs"], key=key)
    assert turned["members"] == ["c", "b", "a"]


def test_a_group_whose_member_never_fires_has_no_figures_but_what_to_do():
    here = world(12, 16)
    codes = here.sample(100).codes(12).float()
    a = member("a", sae_of(here.dictionary), codes=codes)
    b = member("b", sae_of(here.dictionary), codes=torch.zeros_like(codes))
    found, details = evaluated(a, b)
    for name in ("shared_decoder", "matched_cosine_above_floor", "functional_correlation"):
        assert found[name].value is None  # the rows agree as far as training never moved them
        assert found[name].reason.startswith("all latents of b are dead on this text: read more")
    assert found["matched_cosine_floor"].value > 0
    assert details["pairs"][0]["floor"]["alive"] is None


def test_the_threshold_is_that_of_the_protocol():
    atoms = world(8, 16).dictionary
    near = torch.nn.functional.normalize(atoms[:4] + atoms[4:], dim=1)  # cosine .707
    x = world(8, 16).sample(100).x
    a, b = member("a", sae_of(atoms[:4]), x), member("b", sae_of(near), x)
    for threshold, share in ((0.7, 1.0), (0.71, 0.0)):
        found = evaluated(a, b, protocol=SeedsProtocol(threshold=threshold))[0]
        assert found["shared_decoder"].value == share
        assert found["shared_decoder"].detail["threshold"] == threshold
    assert np.isclose(found["matched_cosine_decoder"].value, math.sqrt(0.5))


def test_what_both_sides_share_is_of_the_smaller_dictionary():
    here = world(24, 32)
    x = here.sample(300).x
    a = member("a", sae_of(here.dictionary, bias=here.bias), x)
    b = member("b", sae_of(here.dictionary[:10], bias=here.bias), x)
    for pair in ((a, b), (b, a)):
        assert values(*pair)["shared_both"] == 1
    # a name decides which of the two comes first
    assert values(replace(a, name="z"), b)["shared_both"] == 1


def fires(alive, m=12):
    """Codes ``[120, m]`` of which the first ``alive`` fire, the later the more often."""
    codes = (torch.arange(12)[:, None] <= torch.arange(m)).float().repeat(10, 1)
    codes[:, alive:] = 0
    return codes


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_the_chance_of_an_overlap_is_that_of_the_larger_of_both_and_not_of_a_name(names):
    atoms = world(12, 16, k=2).dictionary
    more = member(names[0], sae_of(atoms), codes=fires(12))
    fewer = member(names[1], sae_of(atoms), codes=fires(8))
    found, details = evaluated(more, fewer)
    assert details["pairs"][0]["top_k_chance"] == 5 / 12
    assert found["top_k_overlap"].detail["chance"] == 5 / 12


def test_the_most_frequent_latents_fire_most_often_whatever_the_size_of_their_codes():
    atoms = world(4, 8).dictionary
    codes = torch.zeros(10, 4)
    codes[:9, 0] = 1  # often and small
    codes[:2, 1] = 100  # rarely and large
    codes[:5, 2], codes[5:, 3] = 2, 3  # equally often: the larger comes first
    one = member("a", sae_of(atoms), codes=codes)
    assert one.most_frequent(4).tolist() == [0, 3, 2, 1]


def test_near_neighbours_of_a_larger_dictionary_may_be_fewer_than_shared_latents():
    here = world(24, 32)
    x = here.sample(100).x
    a = member("a", sae_of(here.dictionary), x)
    b = member("b", sae_of(here.dictionary[:10]), x)
    found, details = evaluated(a, b)
    assert found["max_cosine_shared_decoder"].value < found["shared_decoder"].value == 1
    assert details["pairs"][0]["decoder"]["max_cosine_shared_b"] >= 1  # the smaller side
    source = definition("max_cosine_shared_decoder").source
    assert "smaller side is never below" in source
    assert "the mean with that of a larger side can be" in source


def test_halves_of_the_kept_text_are_named_where_they_are_used():
    formula = definition("functional_correlation").formula
    assert "matched on the first half of the kept text, scored on the second half" in formula
