"""Published checkpoints by their names: which files of the repository are found and downloaded."""

from __future__ import annotations

import pytest

from saebench.errors import BadReferenceError, UnsafeFileError
from saebench.loading import expand, open_checkpoint
from saebench.locating import bring, hint, the_checkpoint
from saebench.reference import parse_reference, resolve
from tests.hub.fake_hub import FakeHub

DIFFERENCE = "Ftm23/cbd-sae-diff-gemma2-2pair-frgv"
BEHAVIOUR = "Solshine/gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit"
SCOPE = "Solshine/gemma-4-e2b-scope-v1-L17-batchtopk-k64-seed17"
CROSSCODER = "caiovicentino1/gemma2-2b-crosscoder-model-diff-papergrade"
FAITHFUL = "seonglae/faithful-gpt2-small"
RUN = "gpt2-small_blocks.8.hook_resid_pre_12288_topk_16_0.0003_42_faithful-gpt2-small_128_24413"

REPOS = {
    DIFFERENCE: [f"layer_{i}/{n}" for i in (13, 24) for n in ("config.json", "model.safetensors")],
    BEHAVIOUR: [f"{BEHAVIOUR.split('/')[1]}.pt", "cfg.json"],
    SCOPE: ["sae_weights.pt", "cfg.json"],
    CROSSCODER: [
        "cfg.json",
        "crosscoder_final.safetensors",
        "feature_taxonomy.json",
        "train_log.json",
    ],
    FAITHFUL: [f"{RUN}/sae.pt", f"{RUN}/config.json", f"{RUN[:-5]}12000/sae.pt"],
}
BESIDE = ["README.md", ".gitattributes", "figures/fve.png"]

# a reference, and the files that it takes
REFERENCES = [
    (f"hf:{DIFFERENCE}:layer_13", REPOS[DIFFERENCE][:2]),
    (f"hf:{DIFFERENCE}:layer_24", REPOS[DIFFERENCE][2:]),
    (f"hf:{DIFFERENCE}:layer_24/model.safetensors", REPOS[DIFFERENCE][2:]),
    (f"hf:{BEHAVIOUR}", REPOS[BEHAVIOUR]),
    (f"hf:{SCOPE}", REPOS[SCOPE]),
    (f"hf:{CROSSCODER}", REPOS[CROSSCODER][:2]),
    (f"hf:{FAITHFUL}:{RUN}", REPOS[FAITHFUL][:2]),
]


@pytest.fixture(autouse=True)
def _published(hub: FakeHub) -> None:
    for repo, names in REPOS.items():
        hub.push(repo, {name: f"{repo} {name}".encode() for name in [*names, *BESIDE]})


@pytest.mark.parametrize(("text", "expected"), REFERENCES, ids=[text for text, _ in REFERENCES])
def test_the_files_of_the_checkpoint_and_no_others_are_downloaded(
    hub: FakeHub, text: str, expected: list[str]
) -> None:
    found = resolve(parse_reference(text), endpoint=hub.endpoint, cache=hub.cache)
    place = the_checkpoint(found)
    folder = bring(found, place)
    assert sorted(hub.downloads()) == sorted(expected)
    assert sorted(place.files) == sorted(expected)
    assert all(
        (folder / name).read_bytes().decode().startswith(str(found.reference.repo))
        for name in place.names
    )
    path = text.split(":", 2)[2] if text.count(":") == 2 else ""
    assert hint(found, place) == "/".join(
        part for part in (str(found.reference.repo), path) if part
    )


def test_a_difference_sae_per_layer_expands_to_its_layers_at_the_commit(hub: FakeHub) -> None:
    commit = hub.commit(DIFFERENCE)
    expected = [f"hf:{DIFFERENCE}@{commit}:layer_{i}" for i in (13, 24)]
    assert [str(item) for item in expand(f"hf:{DIFFERENCE}")] == expected
    with pytest.raises(BadReferenceError, match="2 of them") as error:
        open_checkpoint(f"hf:{DIFFERENCE}")
    assert ", ".join(expected) in str(error.value)
    assert hub.file_requests() == []


def test_a_checkpoint_that_is_replaced_as_it_trains_stays_what_it_was_at_a_pinned_commit(
    hub: FakeHub,
) -> None:
    before = hub.commit(SCOPE)
    hub.push(SCOPE, {"sae_weights.pt": b"later", "cfg.json": b"{}"})
    found = resolve(parse_reference(f"hf:{SCOPE}@{before}"), endpoint=hub.endpoint, cache=hub.cache)
    folder = bring(found, the_checkpoint(found))
    assert (folder / "sae_weights.pt").read_bytes() == f"{SCOPE} sae_weights.pt".encode()


@pytest.mark.parametrize("repo", [BEHAVIOUR, SCOPE])
def test_pickles_are_named_with_the_flag_that_admits_them(hub: FakeHub, repo: str) -> None:
    with pytest.raises(UnsafeFileError, match=rf"weights {REPOS[repo][0]}: .*--allow-pickle"):
        open_checkpoint(f"hf:{repo}")
    assert hub.file_requests() == []
