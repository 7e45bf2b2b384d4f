"""The API reference of both libraries, built from their docstrings: `./run.sh docs [FOLDER]`.

Every module but the commands has a page. What pdoc warns of is an error here.
"""

import sys
import warnings
from pathlib import Path

import pdoc
from pdoc import extract

ROOT = Path(__file__).parents[1]
PACKAGES = ("circuits_jax", "foveation_jax")


def modules() -> list[str]:
    """Names for pdoc, each page once: a package brings the modules that it does not hide along."""
    asked, brought = [], set()
    for file in sorted(file for name in PACKAGES for file in (ROOT / name).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if parts[-1] != "main" and name not in brought:
            asked.append(name)
            brought |= set(extract.walk_specs([name]))
    return asked


def main(folder: str = "build/reference") -> None:
    """Writes the pages into `folder`."""
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        pdoc.pdoc(*modules(), output_directory=ROOT / folder)
    print(f"open {folder}/index.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
