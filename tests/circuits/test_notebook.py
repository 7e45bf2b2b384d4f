"""The Colab notebook runs top to bottom, on the model that it names."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "circuits.ipynb"


def test_notebook_runs_top_to_bottom(monkeypatch):
    """With three pairs held out, which are judged as ten are."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("n_held_out=10", "n_held_out=3")
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    found = names["evaluation"].judgements
    circuit, random = (
        max(j.faithfulness for j in found if j.kept == kind and j.size == 68)
        for kind in ("circuit", "random")
    )
    assert len(names["task"].held_out) == 3
    assert names["outputs"].shape == (5, 30, 9, 576)
    assert circuit > random
