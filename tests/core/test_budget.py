"""The budget rule: every spelling, one exact integer."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridprune.core.budget import Budget
from gridprune.errors import BudgetError

from . import reference


@pytest.mark.parametrize(
    "keep",
    ["11.1%", " 11.1 % ", 0.111, "0.111", "1.11e-1", Decimal("0.111"), Fraction(111, 1000), np.float64(0.111)],
    ids=repr,
)
def test_spellings_of_a_share(keep):
    assert Budget.parse(keep) == Budget(share=Fraction(111, 1000))
    assert Budget.parse(keep).resolve(576) == 64
    assert Budget.parse(keep).resolve(2880) == 320


@pytest.mark.parametrize("keep", [64, "64", " 64 ", "+64", np.int64(64), np.int32(64), np.uint8(64)], ids=repr)
def test_spellings_of_a_count(keep):
    assert Budget.parse(keep) == Budget(count=64)
    assert Budget.parse(keep).resolve(64) == 64


def test_a_float_is_the_decimal_it_prints_as():
    assert Budget.parse(0.1).share == Fraction(1, 10)
    assert Budget.parse(np.float32(0.1)).share == Fraction(1, 10)
    assert Budget.parse(0.3).resolve(5) == 2  # 1.5 exactly; in binary 0.3 lies below it
    assert Budget.parse(1.0).resolve(7) == 7
    assert Budget.parse("1").resolve(7) == 1  # digits alone are a count


def test_a_budget_passes_through():
    budget = Budget(count=3)
    assert Budget.parse(budget) is budget


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 700))
def test_resolve_is_the_nearest_integer(a, b, total):
    share = Fraction(min(a, b), max(a, b))
    k = Budget.parse(share).resolve(total)
    assert k == reference.resolve(share, total)
    assert 1 <= k <= total


@given(st.integers(1, 10000), st.integers(1, 3000))
def test_percent_float_and_decimal_agree(hundredths, total):
    share = Fraction(hundredths, 10000)
    spellings = [f"{hundredths / 100}%", hundredths / 10000, Decimal(hundredths) / 10000, share]
    assert {Budget.parse(s).resolve(total) for s in spellings} == {Budget.parse(share).resolve(total)}


@pytest.mark.parametrize(
    "keep",
    [
        0,
        -1,
        "0",
        "-5",
        0.0,
        -0.1,
        1.0000001,
        "100.1%",
        "0%",
        64.0,
        np.int64(0),
        Fraction(0),
        Fraction(3, 2),
        Fraction(10**5000),
        Decimal("1e400"),
        float("inf"),
        float("nan"),
        "nan",
        "inf",
        Decimal("sNaN"),
        True,
        False,
        np.bool_(True),
        None,
        "",
        "%",
        "many",
        "64 tokens",
        "²",
        "1e-999999999",
        "1e999999999",
        1j,
        [64],
        "0." + "1" * 5000,
        "9" * 5000,
    ],
    ids=lambda keep: type(keep).__name__,
)
def test_errors(keep):
    with pytest.raises(BudgetError) as caught:
        Budget.parse(keep)
    assert "64" in str(caught.value)  # the help
    assert len(str(caught.value)) < 500


def test_resolve_errors():
    with pytest.raises(BudgetError, match=r"keep 65 .* only 64"):
        Budget.parse(65).resolve(64)
    for total in (0, -1):
        with pytest.raises(BudgetError, match="no visual tokens"):
            Budget.parse("50%").resolve(total)
    for wrong in ({}, {"count": 1, "share": Fraction(1)}, {"count": 0}, {"share": Fraction(2)}):
        with pytest.raises(BudgetError):
            Budget(**wrong)


@pytest.mark.parametrize(
    ("keep", "text"), [(64, "64"), ("11.1%", "11.1%"), (Fraction(1, 9), "11.1111%"), (1.0, "100%")]
)
def test_text(keep, text):
    assert str(Budget.parse(keep)) == text
