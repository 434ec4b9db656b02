import tomllib
from importlib.resources import files

from sparse_rep.app.charts.palette import ACCENT, LINE, PAGE, PANEL, SERIES, TEXT


def test_the_theme_file_repeats_the_palette():
    theme = tomllib.loads(files("sparse_rep.app.entry").joinpath(".streamlit/config.toml").read_text("utf-8"))["theme"]
    assert tuple(theme["chartCategoricalColors"]) == SERIES
    for mode in ("light", "dark"):
        said = {key: theme[mode][key] for key in ("textColor", "backgroundColor", "secondaryBackgroundColor")}
        said |= {key: theme[mode][key] for key in ("borderColor", "primaryColor")}
        shades = (TEXT, PAGE, PANEL, LINE, ACCENT)
        assert said == dict(zip(said, (getattr(s, mode) for s in shades), strict=True))
