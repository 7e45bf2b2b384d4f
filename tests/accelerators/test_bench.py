"""`./run.sh bench accelerator` is ready for a device that is not here: it runs small on a CPU."""

import json
import pathlib
import subprocess
import sys

from tests.accelerators import lower
from tests.bench import accelerator

ROOT = pathlib.Path(__file__).parents[2]


def rows(small: bool) -> dict:
    return accelerator.rows(accelerator.argparse.Namespace(small=small))


def test_a_row_for_everything_that_an_accelerator_must_show():
    want = {
        *("peak", "eye movements", "texture/256", "texture/512", "autoencoders"),
        *(f"training/{n}/{p}" for n in ("alexnet", "resnet18") for p in accelerator.FAST),
        *(f"codes/{shape}" for shape in ("GPT-2 small", "GPT-2 XL", "Llama 8B")),
        *("first call/empty", "first call/full"),
    }
    assert set(rows(small=False)) == want


def test_on_a_cpu_it_says_that_it_is_small():
    command = [sys.executable, "-m", "tests.bench.accelerator", "--only=peak", "--turns=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told, *lines = done.stdout.splitlines()
    machine, peak = map(json.loads, lines)
    assert "small" in told
    assert machine["device"] == "cpu"
    assert peak["bench"] == "peak"
    assert peak["tflop_a_second"] > 0


def test_a_row_that_fails_is_named_and_the_others_go_on(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["accelerator", "--only=p", "--turns=1", "--small"])
    monkeypatch.setattr(accelerator, "rows", lambda options: {"peak": None, "pique": None})
    assert accelerator.main() == 1  # no row is called so in the process that measures it
    out, err = capfd.readouterr()
    assert "failed: pique" in err
    assert '"bench": "peak"' in out


def test_all_that_chips_send_is_counted():
    """As the compiler writes it: one array, several, or more than five, with their numbers."""
    text = """
      %one = f32[2,8]{1,0:T(8,128)S(1)} all-gather(%a), channel_id=1
      %two = (f32[64]{0:T(128)}, bf16[3]{0}) all-reduce(%a, %b), channel_id=2
      %six = (f32[1]{0}, f32[1]{0}, f32[1]{0}, f32[1]{0}, f32[1]{0}, /*index=5*/f32[5]{0}) \
all-reduce-start(%a, %b, %c, %d, %e, %f), channel_id=3
    """
    kinds, sent = lower.traffic(text)
    assert kinds == "1 all-gather, 2 all-reduce"
    assert sent == 4 * 16 + (4 * 64 + 2 * 3) + 4 * 10
