"""Fixtures and marker in a project of its own, beside tests and fixtures that are not about SAEs."""

from __future__ import annotations

import operator

import pytest

from saebench.record import Measurement
from saebench.session import Value
from tests.plugin.conftest import items

pytest_plugins = ["pytester"]

OK, FAILED, USAGE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR


@pytest.fixture
def project(run, pytester, world, kept):
    """Run a test file in a project whose ``saebench.toml`` names both checkpoints."""

    def run_project(source, *arguments, lines=(), configured=True, **more):
        if configured:
            (pytester.path / "saebench.toml").write_text(world.config(*lines, out=kept))
        pytester.makepyfile(test_own=source, **more)
        return run(*arguments)

    return run_project


# --- fixtures ---------------------------------------------------------------------------------------


def test_a_plain_assert_on_what_was_measured_explains_its_failure(project):
    result = project(
        """
        def test_quality(measured):
            assert measured["fve"] >= 0.99
        """,
        "-v",
    )
    assert items(result, "PASSED") == {"test_quality[good]"}
    assert items(result, "FAILED") == {"test_quality[bad]"}
    result.stdout.re_match_lines(
        [r"E +assert FVE -1\.\S+ \[.*\] is below the gate >= 0\.99 +\(.*34 sequences, fve@1\)"]
    )
    assert result.ret == FAILED


@pytest.mark.parametrize(
    ("assertion", "explanation"),
    [
        ("measured['l0'] == 5", "L0 4.00 * differs from the gate == 5 *"),
        ("0 < measured['fve']", "FVE -1.* is not above the gate > 0 *"),
        ("measured['ce_recovered'] >= 1e-05", "CE recovered -0.* is below the gate >= 1e-05 *"),
    ],
)
def test_every_comparison_explains_itself(project, assertion, explanation):
    result = project(f"def test_quality(measured):\n    assert {assertion}", "-k", "bad")
    result.stdout.fnmatch_lines([f"E *{explanation}"])
    assert result.ret == FAILED


def test_a_metric_that_does_not_exist_is_answered_with_the_nearest_one(project):
    result = project("def test_quality(measured):\n    assert measured['fvee'] > 0", "-k", "good")
    result.stdout.fnmatch_lines(["E *Did you mean 'fve'?*"])


def test_the_checkpoint_is_a_fixture_and_needs_no_model(project, monkeypatch):
    monkeypatch.delattr("saebench.measure.measure")
    result = project(
        """
        import torch

        def test_decoder(sae, sae_reference):
            assert sae.cfg.d_in == 16
            assert sae_reference.name in ("good", "bad")
            assert sae(torch.zeros(2, 16)).shape == (2, 16)
        """,
        "-v",
    )
    assert items(result, "PASSED") == {"test_decoder[good]", "test_decoder[bad]"}
    assert result.ret == OK


def test_several_fixtures_of_one_item_are_about_one_checkpoint(project):
    result = project(
        """
        import pytest

        @pytest.mark.parametrize("limit", [1, 2])
        def test_both(measured, sae, sae_reference, limit):
            name = sae_reference.name
            assert measured.record.name == name
            assert (sae.cfg.k or 0) == (4 if name == "bad" else 0)
        """
    )
    result.assert_outcomes(passed=4)


def test_the_marker_makes_one_item_for_each_gate_of_a_suite(project):
    result = project(
        """
        import pytest

        @pytest.mark.saebench(suite="sparsity")
        def test_own_way(measured, gate):
            assert measured.judge(gate).status == "PASS"
        """,
        "-v",
        lines=("[gates]", "l0 = '1..20'", "freq_over_10_percent = '<= 1'"),
    )
    assert items(result, "PASSED") == {
        f"test_own_way[{name}-{metric}]"
        for name in ("good", "bad")
        for metric in ("l0", "freq_over_10_percent")
    }
    result.stdout.fnmatch_lines(["*= saebench =*", "wrote *README.md"])


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("", "*fixture 'gate' needs the marker*"),
        ("@pytest.mark.saebench('sparsity')", "*suite='...') and nothing else*"),
        ("@pytest.mark.saebench(suites='sparsity')", "*suite='...') and nothing else*"),
    ],
)
def test_a_marker_that_is_missing_or_wrong_is_an_error_that_says_how_to_write_it(
    project, decorator, message
):
    result = project(f"import pytest\n{decorator}\ndef test_own(measured, gate):\n    pass\n")
    result.stdout.fnmatch_lines([message])
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_expected_failures_stay_expected(project):
    result = project(
        """
        import pytest

        @pytest.mark.xfail(strict=True)
        def test_known(measured):
            assert measured["fve"] > 2
        """
    )
    result.assert_outcomes(xfailed=2)
    assert result.ret == OK


# --- beside others ----------------------------------------------------------------------------------

MIXED = """
def test_quality(measured):
    assert measured["mse"] >= 0

def test_other():
    pass
"""


@pytest.mark.parametrize("configured", [True, False])
def test_a_project_may_run_its_other_tests_only(project, configured):
    result = project(MIXED, "-k", "other", configured=configured)
    result.assert_outcomes(passed=1, deselected=2 if configured else 1)
    assert result.ret == OK
    assert "saebench:" not in result.stdout.str()


def test_selecting_nothing_of_a_project_is_a_usage_error(project):
    assert project(MIXED, "-k", "neither").ret == USAGE


def test_everything_skipped_in_a_project_is_a_usage_error(project):
    source = """
        import pytest

        @pytest.mark.saebench(suite="sparsity")
        def test_own(measured, gate):
            assert measured.check(gate)[0]
        """
    result = project(source, "-k", "good")  # it states no k for the shipped limit on l0
    result.assert_outcomes(skipped=1, deselected=1)
    assert result.ret == USAGE


def test_a_project_without_configuration_is_told_so_once(project):
    result = project(MIXED, configured=False)
    assert result.ret == USAGE
    assert result.stderr.str().count("checkpoints to measure: none") == 1


def test_a_checkpoint_that_does_not_exist_is_a_usage_error(project, pytester, world):
    (pytester.path / "saebench.toml").write_text("[[sae]]\nref = 'nowhere'\n")
    for arguments in ((), ("-k", "good")):  # whose names are not known where there are none
        result = project(MIXED, *arguments, configured=False)
        assert result.ret == USAGE
        assert "nowhere" in result.stderr.str()


def test_fixtures_of_the_same_names_that_belong_to_the_project_are_left_alone(project):
    result = project(
        """
        import pytest

        @pytest.fixture
        def gate():
            return "garden"

        @pytest.fixture(params=[1, 2])
        def sae(request):
            return request.param

        @pytest.mark.parametrize("measured", ["a", "b"])
        def test_own(gate, sae, measured):
            assert (gate, sae + len(measured)) in (("garden", 2), ("garden", 3))
        """,
        configured=False,
    )
    result.assert_outcomes(passed=4)
    assert result.ret == OK
    assert "nothing was measured" not in result.stdout.str()


def test_a_fixture_that_overrides_ours_can_build_on_it(project):
    result = project(
        """
        import pytest

        @pytest.fixture
        def sae(sae):
            return sae.cfg.d_sae

        def test_own(sae):
            assert sae in (24, 32)
        """
    )
    result.assert_outcomes(passed=2)


def test_a_parametrisation_that_is_empty_elsewhere_is_left_alone(project):
    result = project(
        """
        import pytest

        @pytest.mark.parametrize("x", [])
        def test_other(x):
            pass
        """,
        configured=False,
    )
    result.assert_outcomes(skipped=1)


def test_a_project_that_forbids_empty_parametrisations_can_run_the_suites(suites, pytester):
    pytester.makeini("[pytest]\nempty_parameter_set_mark = fail_at_collect\n")
    assert suites("-k", "good-fve").ret == OK


# --- values ------------------------------------------------------------------------------------------


def test_a_value_compares_like_its_estimate():
    value = Value(Measurement("fve@1", 0.8))
    assert value >= 0.8
    assert value <= 0.8
    assert value > 0.7
    assert value < 0.9
    assert value == 0.8
    assert value == pytest.approx(0.8 + 1e-9)
    assert value != 0.7
    assert not operator.ne(value, 0.8)
    assert float(value) == 0.8


def test_what_could_not_be_measured_passes_no_comparison():
    value = Value(Measurement("fve@1", None, reason="no variance"))
    comparisons = (value >= 0, value <= 0, value > 0, value < 0, value == 0, value != 0)
    assert not any(comparisons)
    with pytest.raises(Exception, match="no variance"):
        float(value)
    assert "no variance" in value.explain(">=", 0)
