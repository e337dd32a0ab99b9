import stat

import pytest

from client.insight.options import TEMPLATE, InsightOptions, make_options, read_options
from pp_model.errors import ConfigError


def test_without_a_file_there_are_defaults_and_no_uplift(tmp_path):
    options = read_options(tmp_path / "insight.toml")

    assert options == InsightOptions()
    assert options.campaigns.uplift == {}


def test_the_file_that_is_made_says_the_defaults(tmp_path):
    path = tmp_path / "insight.toml"

    assert make_options(path)
    assert read_options(path) == InsightOptions()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "insight.toml"
    path.write_text("[campaigns]\nbudget = 5\n")

    assert not make_options(path)
    assert read_options(path).campaigns.budget == 5.0


def test_the_uplift_in_the_template_can_be_taken_as_it_stands(tmp_path):
    path = tmp_path / "insight.toml"
    path.write_text(TEMPLATE.replace("# uplift", "uplift"))

    assert read_options(path).campaigns.uplift == {"low": 0.02, "middle": 0.05, "high": 0.03}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[campaigns]\nbugdet = 5", "campaigns.bugdet"),
        ("[prices]\nx = 1", "prices"),
        ("[campaigns]\nbudget = 0", "campaigns.budget"),
        ("[campaigns]\nbudget = nan", "campaigns.budget"),
        ("[campaigns]\ncost_per_contact = inf", "campaigns.cost_per_contact"),
        ("[campaigns]\nmargin = 30", "campaigns.margin"),
        ("[campaigns]\nuplift = 0.05", "campaigns.uplift"),
        ("[campaigns]\nuplift = { medium = 0.05 }", "campaigns.uplift.medium"),
        ("[campaigns]\nuplift = { low = -0.1 }", "campaigns.uplift.low"),
        ("[campaigns]\nuplift = { low = nan }", "campaigns.uplift.low"),
    ],
)
def test_what_is_unknown_or_makes_no_sense_is_refused_by_file_and_key(text, key, tmp_path):
    path = tmp_path / "insight.toml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_options(path)

    assert str(path) in str(caught.value)
    assert key in str(caught.value)


def test_a_file_that_is_not_toml_is_our_error(tmp_path):
    (tmp_path / "insight.toml").write_text("[campaigns")

    with pytest.raises(ConfigError, match="is not TOML"):
        read_options(tmp_path / "insight.toml")
