"""bitsandbytes kept to what it is asked for."""

import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

from saebench.models import bits_and_bytes
from saebench.quantisation import code_book, quantise_blocks

pytest.importorskip("bitsandbytes")


class Holder(nn.Module):
    """A model of one 4-bit layer."""

    def __init__(self, weight, compute=torch.float32, double=False):
        super().__init__()
        library = bits_and_bytes.load()
        n_out, n_in = weight.shape
        self.layer = library.nn.Linear4bit(
            n_in, n_out, True, compute, compress_statistics=double, quant_type="nf4"
        )
        self.layer.weight = library.nn.Params4bit(
            weight, False, None, 64, double, "nf4", module=self.layer
        )
        self.layer.bias.data = torch.arange(float(n_out))
        self.to("cpu").eval()


def weight(n_out, n_in):
    w = torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(0))
    return w * torch.logspace(-1, 1, n_out)[:, None]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(48, 16), (64, 96), (48, 24), (32, 64), (10, 15), (64, 192)])
@pytest.mark.parametrize("double", [False, True])
def test_rows_that_are_no_whole_blocks_get_their_own_scales(shape, double):
    w = weight(*shape)
    model = Holder(w.clone(), double=double)
    assert bits_and_bytes.settle_layers(model) == ["layer"]
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(1))
    expected = quantise_blocks(w, code_book("nf4"), double=double).dequantise()
    got = model.layer(x)
    linear = nn.functional.linear(x, expected, torch.arange(float(shape[0])))
    torch.testing.assert_close(got, linear, atol=1e-3 if double else 1e-4, rtol=1e-3)


@torch.no_grad()
def test_products_are_made_in_float32_where_that_is_asked_for():
    w = weight(64, 128)
    model = Holder(w.clone())
    bits_and_bytes.settle_layers(model)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    exact = quantise_blocks(w, code_book("nf4")).dequantise()
    expected = nn.functional.linear(x, exact, torch.arange(64.0))
    assert torch.equal(model.layer(x), expected)


def test_no_kernel_is_fetched_and_nothing_is_said_on_import(tmp_path):
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*args, **kwargs):\n    raise SystemExit('asked the hub')\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r});"
        "from saebench.models import bits_and_bytes as b; b.load();"
        "assert 'kernels' not in sys.modules; import kernels; assert kernels.get_kernel"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_remarks_are_still_heard(caplog):
    bits_and_bytes.load()
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    logger.warning("MatMul8bitLt: inputs will be cast from torch.float32 to float16")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_what_fails_on_import_is_a_reason_not_to_use_it(monkeypatch):
    def broken():
        raise OSError("libfoo.so: cannot open\nmore")

    monkeypatch.setattr(bits_and_bytes, "load", broken)
    bits_and_bytes._trial.cache_clear()
    try:
        why = bits_and_bytes.why_not(torch.device("cpu"))
    finally:
        bits_and_bytes._trial.cache_clear()
    assert why is not None
    assert why.endswith("does not work on cpu (OSError: libfoo.so: cannot open)")
