"""What a failed download leaves under the name of weights is called what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.weights import read_header, read_npz, read_pickle, read_safetensors

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>404</body></html>"
READERS = {"w.safetensors": read_safetensors, "w.npz": read_npz, "w.pt": read_pickle}
GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "saelens"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "found", "next_step"),
    [
        (POINTER, "a git-LFS pointer, not the file", "Run git lfs pull"),
        (PAGE, "an HTML page", "Download the file itself"),
        (b"<html><title>Sign in</title>", "an HTML page", "Download the file itself"),
    ],
)
def test_a_pointer_or_a_page_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, found: str, next_step: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (READERS[name], read_header):
        with pytest.raises(CheckpointError) as error:
            read(path)
        assert error.value.asked == f"weights {name} ({len(content):,} bytes)"
        assert error.value.found.startswith(found)
        assert error.value.next_step.startswith(next_step)


@pytest.mark.parametrize("name", READERS)
def test_other_text_is_damage_and_no_page(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"versions of <html>")
    with pytest.raises(CheckpointError) as error:
        READERS[name](tmp_path / name)
    assert "HTML" not in str(error.value)
    assert "git-LFS" not in str(error.value)


def test_a_checkpoint_cloned_without_its_weights_says_so(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "topk-none-b_dec-subtracted" / "cfg.json", tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"sae_weights\.safetensors .*a git-LFS pointer"):
        load_sae(tmp_path)
