"""The job "circuit": an evaluation that is stopped goes on where it was."""

import json

import pytest

from circuits_jax import config, pipeline
from circuits_jax.evaluation import faithfulness
from tests.circuits import tiny


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    chosen = config.experiment("custom").unlock()
    chosen.model = str(tiny.write_model(folder / "model"))
    chosen.task.path = str(tiny.write_task(folder / "task.jsonl", tiny.pairs(8)))
    chosen.task.n, chosen.task.n_held_out, chosen.method = 3, 4, "mean_difference"
    chosen.circuit.size = 8  # with edges among them
    chosen.evaluate.update({"ablations": ("mean", "zero"), "curve": (0.5,), "n_random": 1})
    return chosen.lock()


def results(folder):
    return {
        p.name: p.read_bytes()
        for p in folder.iterdir()
        if p.name in ("circuit.json", "metrics.jsonl")
    }


def test_a_stopped_evaluation_goes_on_at_its_part(settings, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pipeline.run(settings, whole)
    printed = capsys.readouterr().out
    judged, calls = faithfulness.masked_metrics, []

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(faithfulness, "edge_masked_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(settings, stopped)
    assert {p.name for p in (stopped / "evaluation").iterdir()} == {"mean.json", "mean-curve.json"}
    assert not (stopped / "circuit.json").exists()
    monkeypatch.setattr(faithfulness, "masked_metrics", lambda *a: calls.append(a) or judged(*a))
    pipeline.run(settings, stopped)
    assert len(calls) == 1  # heads, with others set to zero
    assert results(stopped) == results(whole)
    assert not (stopped / "evaluation").exists()
    assert capsys.readouterr().out == printed
    pipeline.run(settings, stopped)  # finished: says the same again
    assert capsys.readouterr().out == printed
    record = json.loads((stopped / "circuit.json").read_text())
    assert record["performance"]["held_out"]["pairs"] == 4
