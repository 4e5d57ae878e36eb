"""Code books: their construction, and bitsandbytes' own tables at run time."""

import pytest
import torch
from scipy.stats import norm

from saebench.models import bits_and_bytes
from saebench.quantisation import code_book, dynamic_map, fp4, nf4


@pytest.fixture(scope="module")
def functional():
    pytest.importorskip("bitsandbytes")
    return bits_and_bytes.load().functional


def test_nf4_is_the_table_of_bitsandbytes(functional):
    assert torch.equal(nf4(), functional.get_4bit_type("nf4", device="cpu"))


def test_fp4_is_the_table_of_bitsandbytes_in_order(functional):
    assert torch.equal(fp4(), functional.get_4bit_type("fp4", device="cpu").unique())


def test_the_dynamic_map_is_that_of_bitsandbytes(functional):
    assert torch.equal(dynamic_map(), functional.create_dynamic_map())


def test_nf4_has_quantiles_of_the_normal_distribution_in_equal_steps():
    """Eight equal steps of probability above zero and seven below, from scipy's own quantiles."""
    book = nf4().double()
    p = norm.cdf(book.numpy() * norm.ppf(0.9677083))
    assert book[7] == 0
    assert torch.tensor(p[7:]).diff().std() < 1e-6
    assert torch.tensor(p[:8]).diff().std() < 1e-6
    assert book[0] == -1
    assert book[-1] == 1


def test_fp4_has_a_bit_of_mantissa():
    positive = fp4()[8:] * 12
    torch.testing.assert_close(positive, torch.tensor([1 / 16, 2, 3, 4, 6, 8, 12]))
    assert torch.equal(fp4(), -fp4().flip(0))


def test_the_dynamic_map_has_twice_the_values_in_each_decade():
    values = dynamic_map()
    assert len(values.unique()) == 256
    positive = values[values > 0][:-1]  # without the 1 that is added
    decades = positive.log10().floor().int()
    assert [int((decades == d).sum()) for d in range(-7, 0)] == [1, 2, 4, 8, 16, 32, 64]


def test_books_are_asked_for_by_name():
    assert torch.equal(code_book("nf4"), nf4())
    assert torch.equal(code_book("fp4"), fp4())
