import pytest

from mithridate import errors


def test_exit_codes():
    codes = {
        errors.InputError: 2,
        errors.DataError: 2,
        errors.CheckpointError: 2,
        errors.NothingAssessedError: 3,
        errors.RunError: 4,
    }
    assert {kind: kind.exit_code for kind in codes} == codes
    assert issubclass(errors.InputError, ValueError)  # as a caller may expect of a setting


def test_unknown_suggests_only_what_is_near():
    assert "did you mean" not in str(errors.unknown("attack", "zzz", ["pgd"]))
    assert "did you mean 'pgd'" in str(errors.unknown("attack", "pdg", ["pgd", "fgsm"]))


@pytest.mark.parametrize(
    ("value", "says"),
    [(value, "must be above 0") for value in (float("nan"), -1, 0)]
    + [(value, "is a number, got") for value in ("1", None, True, ["0.1", "0.2"])],
)
def test_check_number_refuses(value, says):
    with pytest.raises(errors.InputError, match=f"steps {says}"):
        errors.check_number("steps", value, low=0, open_low=True)


def test_check_number_upper_end():
    errors.check_number("rate", 1, low=0, high=1)
    with pytest.raises(errors.InputError, match="at most 1"):
        errors.check_number("rate", 1.1, low=0, high=1)
