"""The command from flag to page on tiny settings: whole runs, runs that go on, and bad input."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from foveation_jax import pipeline
from foveation_jax.data import read_image, render_scenes, write_png
from foveation_jax.jobs import pictures, train_decoder
from foveation_jax.runs import command as foveation_command
from foveation_jax.runs import files, progress
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms.matched import TOLERANCE
from foveation_jax.vgg import encoder_decoder, weight_files, winograd
from tests.bench.matched_runs import mean_ssim
from tests.forks import forks

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "foveation"
SYSTEMS = ("reference", "foveation_texture", "uniform_blur", "foveation_blur")


def load_config(name: str, **fields) -> ConfigDict:
    import runpy

    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    for field, value in fields.items():
        config[field] = value
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pictures in two classes, and two files that cannot be read."""
    import jax

    root = tmp_path_factory.mktemp("photographs")
    pictures = np.asarray(render_scenes(jax.random.key(0), np.arange(5), (64, 64)))
    for number, picture in enumerate(pictures):
        write_png(root / ("attic", "kitchen")[number % 2] / f"{number}.png", picture)
    (root / "attic" / "letter.txt").write_text("no picture")
    Image.new("RGB", (1, 1)).save(root / "kitchen" / "dot.png")
    return root


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "transforms"
    config = load_config(
        "transforms", images=str(folder), size=(64, 64), batch_size=4, report_images=2, records=True
    )
    return config, out, pictures.run(config, out)


def test_run_writes_every_picture_rows_records_and_the_page(finished):
    _, out, results = finished
    assert results.pictures == 5
    assert set(results.failures) == {"attic/letter", "kitchen/dot"}
    for system in SYSTEMS:
        pictures = sorted(p.relative_to(out / system) for p in (out / system).rglob("*.png"))
        assert len(pictures) == 5
        assert len(list(out.glob(f"{system}-*.array_record"))) == 1
        assert read_image(out / system / pictures[0]).shape == (64, 64, 3)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 5 * 3
    assert all("ms_ssim" not in row and 0 <= row["ssim"] <= 1 for row in rows)  # 64 px: no MS-SSIM
    assert results.report.read_text().startswith("<!doctype html>")
    assert not list(out.rglob("*.unfinished"))
    lines = results.lines()
    assert lines[-2:] == ["5 pictures done, 2 failures", f"report: {out / 'report.html'}"]
    assert any("1 x 1 pixels, 16 x 16 is the least" in line for line in lines)


def test_systems_differ_and_reference_is_the_picture(finished, folder):
    _, out, _ = finished
    original = read_image(folder / "attic" / "0.png")
    seen = {s: read_image(out / s / "attic" / "0.png") for s in SYSTEMS}
    np.testing.assert_allclose(seen["reference"], original, atol=1.5 / 255)
    for system in SYSTEMS[1:]:
        assert np.abs(seen[system] - original).mean() > 0.005


@pytest.mark.parametrize("blur", SYSTEMS[2:])
def test_blurs_lose_as_much_as_the_texture_on_the_files_that_are_left(finished, blur):
    """By scikit-image's SSIM; `tests/bench/matched_runs.py` has other sizes, views and sets."""
    _, out, results = finished
    gap = mean_ssim(out, blur) - mean_ssim(out, "foveation_texture")
    assert abs(gap) <= TOLERANCE
    assert gap == pytest.approx(results.matches[blur].whole_gap, abs=2e-3)  # but for whole levels
    assert mean_ssim(out, "reference") == 1


def test_second_run_does_nothing_again_and_a_missing_picture_comes_back(finished):
    config, out, _ = finished
    gone = out / "foveation_texture" / "attic" / "2.png"
    before, content = gone.stat().st_mtime_ns, gone.read_bytes()
    others = {p: p.stat().st_mtime_ns for p in out.rglob("*.png") if p != gone}
    rows = (out / "metrics.jsonl").read_text()
    gone.unlink()
    pictures.run(config, out)
    assert gone.read_bytes() == content
    assert gone.stat().st_mtime_ns > before
    assert all(p.stat().st_mtime_ns == time for p, time in others.items())
    assert (out / "metrics.jsonl").read_text() == rows


def test_damaged_pictures_rows_and_records_are_made_again(finished):
    config, out, _ = finished
    kept = [p for p in out.rglob("*") if p.suffix in (".png", ".jsonl", ".array_record")]
    before = {path: path.read_bytes() for path in kept}
    first, second, third = sorted(out.glob("*/attic/*.png"))[:3]
    first.write_bytes(before[first][:-20])
    second.write_bytes(b"")
    third.write_bytes(before[third][:90] + b"\0" + before[third][91:])
    for path, part in zip(sorted(out.glob("*.array_record")), (b"", b"junk", b"x"), strict=False):
        path.write_bytes(part if len(part) != 1 else before[path] + part)
    rows = before[out / "metrics.jsonl"].splitlines(keepends=True)
    damaged = [rows[0][:30] + rows[1], b"\xff\xfe\n", *rows[3:]]
    (out / "metrics.jsonl").write_bytes(b"".join(damaged))
    pictures.run(config, out)
    after = {path: path.read_bytes() for path in kept if path.suffix == ".png"}
    assert after == {path: before[path] for path in after}
    assert sorted((out / "metrics.jsonl").read_bytes().splitlines(keepends=True)) == sorted(rows)
    for path in out.glob("*.array_record"):
        assert len(path.read_bytes()) == len(before[path])
    assert not list(out.rglob("*unfinished*"))


def test_picture_replaced_in_place_is_noticed(finished, folder):
    config, out, _ = finished
    path = folder / "attic" / "0.png"
    before = path.read_bytes()
    write_png(path, np.zeros((64, 64, 3)))
    with pytest.raises(InputError, match=r"other files: what images=.* names has changed since"):
        pictures.run(config, out)
    path.write_bytes(before)
    pictures.run(config, out)


def test_workdir_of_another_experiment_is_refused(finished):
    config, out, _ = finished
    other = load_config("transforms", **(config.to_dict() | {"scale": 0.5}))
    with pytest.raises(InputError, match=r"config\.scale is 0\.4 there and 0\.5 here"):
        pictures.run(other, out)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": (8, 64)}, "size has 8; allowed is"),
        ({"batch_size": 0}, "batch_size is 0; allowed is 1 and"),
        (
            {"systems": ("reference", "foveation_texture", "warp")},
            "systems has 'warp'; allowed",
        ),
        ({"systems": ("reference",)}, "systems must hold 'foveation_texture'"),
        ({"metrics": ("beauty",)}, "metrics has 'beauty'; allowed are mse"),
        ({"scale": 9.0}, "scale is 9.0"),
        ({"route": "vgg"}, "route=vgg needs weights=FILE"),
        ({"route": "warp"}, "route is 'warp'"),
        ({"images": "/no/such/folder"}, "/no/such/folder is not a folder"),
    ],
)
def test_bad_fields_stop_before_any_output(fields, message, folder, tmp_path):
    config = load_config("transforms", **({"images": str(folder), "size": (64, 64)} | fields))
    with pytest.raises(InputError, match=message):
        pictures.run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_without_one_picture_is_refused(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "letter.txt").write_text("no picture")
    config = load_config("transforms", images=str(tmp_path / "photographs"), size=(64, 64))
    with pytest.raises(InputError, match=r"none of the files can be read; .*letter\.txt"):
        pictures.run(config, tmp_path / "out")


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    """A random encoder of VGG11's depth."""
    random, tensors = np.random.RandomState(0), {}
    blocks = encoder_decoder.BLOCKS["vgg11"]
    shapes = {"color": (3, 3)} | encoder_decoder.layer_shapes(blocks)
    for name, module in weight_files.encoder_table(blocks).items():
        inputs, outputs = shapes[name]
        side = 1 if name == "color" else 3
        kernel = random.randn(outputs, inputs, side, side) * np.sqrt(2 / (inputs * side**2))
        tensors[f"{module}.weight"] = kernel.astype(np.float32)
        tensors[f"{module}.bias"] = np.zeros(outputs, np.float32)
    path = tmp_path_factory.mktemp("weights") / "encoder.npz"
    np.savez(path, **tensors)
    return path


@pytest.fixture
def compilation_cache(tmp_path):
    """The same programs are compiled once, as the command does."""
    import jax

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def plain_convolution(monkeypatch):
    """XLA's own convolution: the gradient of Winograd's, tested with it, compiles for a minute."""
    monkeypatch.setattr(winograd, "convolve", winograd._direct)


@pytest.mark.usefixtures("compilation_cache", "plain_convolution")
def test_training_goes_on_from_its_checkpoint_and_its_weights_transform(
    encoder_file, folder, tmp_path
):
    fields = {
        "images": str(folder), "encoder": str(encoder_file), "size": (64, 64), "batch_size": 2,
        "checkpoint_every": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    train_decoder.run(load_config("train_decoder", steps=2, **fields), tmp_path / "run")
    resumed = train_decoder.run(load_config("train_decoder", steps=4, **fields), tmp_path / "run")
    rows = files.read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[1]["loss"] < rows[0]["loss"]
    assert resumed.loss == rows[1]["loss"]
    config = load_config("train_decoder", steps=4, **fields)
    files.append_rows(tmp_path / "run" / "metrics.jsonl", [{"step": 5, "loss": 0.0}])  # undone
    assert train_decoder.run(config, tmp_path / "run").loss == resumed.loss
    assert files.read_rows(tmp_path / "run" / "metrics.jsonl") == rows
    for name, sentence in (
        (
            "checkpoints/4/files.json",
            r"checkpoint .*checkpoints/4 is damaged .*; remove .*to train",
        ),
        (
            "metrics.jsonl",
            r"metrics\.jsonl is damaged: it has no rows of step 4; remove .*to train",
        ),
    ):
        damaged = shutil.copytree(tmp_path / "run", tmp_path / name.replace("/", "-"))
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[: -len(content) // 3])
        with pytest.raises(InputError, match=sentence):
            train_decoder.run(config, damaged)
    other = tmp_path / "other.npz"
    np.savez(other, **{k: v + 1 for k, v in np.load(encoder_file).items()})
    shutil.copy(other, encoder_file)
    with pytest.raises(InputError, match=r"what encoder=.* names has changed since"):
        train_decoder.run(config, tmp_path / "run")

    config = load_config(
        "transforms", images=str(folder), size=(64, 64), route="vgg", weights=str(resumed.weights),
        systems=("reference", "foveation_texture"), batch_size=4, limit=4,
    )  # fmt: skip
    pictures.run(config, tmp_path / "seen")
    assert len(list((tmp_path / "seen" / "foveation_texture").rglob("*.png"))) == 3


def test_training_stops_at_a_loss_that_is_not_finite(encoder_file, folder, tmp_path, monkeypatch):
    def make_step(*_):
        return lambda state, *_: (state, {"loss": np.float32(np.nan)})

    monkeypatch.setattr(train_decoder, "make_step", make_step)
    fields = {"images": str(folder), "encoder": str(encoder_file), "size": (64, 64), "steps": 2}
    with pytest.raises(InputError, match="the loss is not finite at step 2; lower learning_rate"):
        train_decoder.run(load_config("train_decoder", batch_size=2, **fields), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("vgg*"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": ""}, "encoder is empty"),
        ({"size": (60, 64)}, "multiples of 64"),
        ({"steps": 0}, "steps is 0; allowed is above 0"),
    ],
)
def test_training_refuses_bad_fields(fields, message, encoder_file, folder, tmp_path):
    fields = {"images": str(folder), "encoder": str(encoder_file)} | fields
    with pytest.raises(InputError, match=message):
        train_decoder.run(load_config("train_decoder", **fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "foveation_jax.main", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def forked(tmp_path_factory):
    """Runs a command line; gives its exit code, what it printed, and its errors."""
    with forks("foveation_jax", tmp_path_factory.mktemp("forks"), pictures.__name__) as run:
        yield run


TRANSFORMS = f"--config={CONFIGS / 'transforms.py'}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TRANSFORMS, "--config.scal=.5"), "field of config 'scal'; did you mean config.scale\\?"),
        ((TRANSFORMS, "--config.fixation=(float('nan'), 3)"), "fixation is .* two numbers, row"),
        ((TRANSFORMS, "--config.scale=wide"), "--config.scale=wide: could not convert"),
        (
            (TRANSFORMS, "--config.images=/no/such/folder"),
            "images: /no/such/folder is not a folder",
        ),
        ((), "--config is missing"),
    ],
)
def test_command_says_one_sentence_and_exits_with_2(arguments, message, forked, tmp_path):
    ended = forked(*arguments, f"--workdir={tmp_path / 'out'}", "--compilation_cache_dir=")
    assert ended.code == 2, ended.err
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("foveation-jax: ")
    assert re.search(message, last), last
    assert "Traceback" not in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("recipe.epoch", "field of config.recipe 'epoch'; did you mean config.recipe.epochs?"),
        ("learning_rates", "did you mean config.recipe.learning_rates?"),
        ("stage.scale", "field of config 'stage'; did you mean config.stage1?"),
    ],
)
def test_the_nearest_field_of_any_depth_is_named(field, message):
    config = foveation_command.load_config(str(CONFIGS / "smoke.py"))
    with pytest.raises(InputError, match=re.escape(message)):
        foveation_command._check_named(config, [f"config.{field}"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 2**32),
        ("recipe.learning_rates", ("(float('nan')", ")")),
        ("recipe.learning_rates", (float("nan"),)),
        ("recipe.momentum", float("inf")),
        ("stage1.fixation", (float("nan"), 3)),
        ("stage1.fixation", ("nan", "3")),
        ("stage1.fixation", (3,)),
        ("data", "\udcff"),
    ],
)
def test_values_that_no_job_can_use(field, value):
    config = load_config("smoke")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"{field.removeprefix('stage1.')} (is|has)"):
        pipeline.check_config(config)


def test_command_runs_to_the_page(folder, tmp_path):
    out = tmp_path / "out"
    ended = command(
        TRANSFORMS, f"--config.images={folder}", "--config.size=32,32", "--config.limit=2",
        "--config.systems=('reference','foveation_texture')", "--config.metrics=('ssim',)",
        f"--workdir={out}", f"--compilation_cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    record = json.loads((out / "experiment.json").read_text())
    assert record["config"]["size"] == [32, 32]
    assert record["versions"]["jax"]
    assert any((tmp_path / "cache").iterdir())


def test_rows_cut_short_by_a_stop_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    files.append_rows(path, [{"a": 1}, {"a": 2}])
    path.write_text(path.read_text() + '{"a": 3, "b"')
    assert files.read_rows(path) == [{"a": 1}, {"a": 2}]
    files.append_rows(path, [{"a": 4}])
    assert files.read_rows(path) == [{"a": 1}, {"a": 2}, {"a": 4}]
    assert files.read_rows(tmp_path / "absent.jsonl") == []


def test_progress_off_a_terminal_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1)
    with progress.progress("steps", 3) as advance:
        for count in (0, 1, 1, 1):
            advance(count)
    first, second, *lines = capsys.readouterr().err.splitlines()
    assert first == "steps: 0/3"  # compiling: there is no rate yet
    assert second.startswith("steps: 1/3, ")
    assert lines[-1].startswith("steps: 3/3 in ")
    assert not any("\r" in line or "\x1b" in line for line in lines)
