"""What both packages need of a run is one text in two places, but for the package's name."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("circuits_jax", "foveation_jax")
# What only one library needs, and what each does in its own way.
OWN = {"circuits_jax": {"keys.py", "mesh.py", "passes.py"}, "foveation_jax": {"mesh.py"}}
TWINS = sorted(
    {file.name for name in PACKAGES for file in (ROOT / name / "runs").glob("*.py")}
    - {name for names in OWN.values() for name in names}
)


@pytest.mark.parametrize("module", TWINS)
def test_both_packages_have_the_same_text(module):
    texts = [(ROOT / name / "runs" / module).read_text() for name in PACKAGES]
    assert texts[0].replace(*PACKAGES) == texts[1]


@pytest.mark.parametrize(
    "file",
    ["page.py", *(f"templates/page.{x}" for x in ("html", "css", "js")), "templates/index.html"],
)
def test_pages_are_made_alike(file):
    texts = [(ROOT / name / "report" / file).read_text() for name in PACKAGES]
    assert texts[0].replace(*PACKAGES) == texts[1]


def test_there_are_twins():
    names = "checks command devices eigen errors experiment files interrupt lock precision progress"
    assert [f"{name}.py" for name in names.split()] == TWINS
