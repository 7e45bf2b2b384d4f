"""Makes tiny_zip.pth and tiny_legacy.pth: one small state dict in PyTorch's two file layouts.

    python tests/goldens/foveation/tiny_torch.py

Needs torch. Holds a transposed (strided) tensor, a half one, integers and a view with an offset.
"""

import collections
import pathlib

import torch


def main():
    state = collections.OrderedDict(
        [
            ("0.weight", torch.arange(6.0).reshape(2, 3).t()),
            ("0.bias", torch.ones(2, dtype=torch.float16)),
            ("steps", torch.tensor([3])),
            ("view", torch.arange(10.0)[4:8]),
        ]
    )
    for layout in ("zip", "legacy"):
        path = pathlib.Path(__file__).with_name(f"tiny_{layout}.pth")
        tree = {"state": state, "epoch": 3}
        torch.save(tree, path, _use_new_zipfile_serialization=layout == "zip")


if __name__ == "__main__":
    main()
