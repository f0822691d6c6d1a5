"""What the rules over cases stand on: every offender is named, and no rule holds for want of cases."""

from __future__ import annotations

import pytest

from tests.cases import check_cases


def test_every_offender_is_named():
    def refuses(value):
        with pytest.raises(ValueError, match="base 2: '3'"):
            int(value, 2)

    check_cases([("3",), "3"], refuses)
    with pytest.raises(AssertionError) as failure:
        check_cases({"three": "3", "binary": ("10",), "no text": 3}, refuses)
    first, *offenders = str(failure.value).split("\n  ")
    assert first == "2 of 3 cases break the rule:"
    assert offenders[0].startswith("binary: Failed DID NOT RAISE")
    assert offenders[1].startswith("no text: TypeError int() can't convert")


def test_a_rule_needs_a_case():
    with pytest.raises(AssertionError, match="without a case"):
        check_cases([], print)
