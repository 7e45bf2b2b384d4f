"""Every picture of a folder as the four stage-1 systems of arXiv 2006.07991 see it.

Claim: Foveation-Texture keeps a clear centre and turns the periphery into texture of the same local
statistics; the two blurs lose as much, in mean SSIM to Reference, by other means.
Expected: pictures under WORKDIR/SYSTEM/, one row a picture and system in WORKDIR/metrics.jsonl, and
WORKDIR/report.html; mean SSIM of the three compressed systems equal to within .01 on these
pictures, the achieved gaps printed with their intervals.
With fixations=FILE.csv (lines image,y,x) every picture has its own; several lines of one picture
are its scan path, a look each, with fresh noise.
Cost: compilation once (kept in --compilation_cache_dir), then `./run.sh bench foveation` has the
seconds a picture.

    ./run.sh foveation --config=configs/foveation/transforms.py --config.images=FOLDER --workdir=DIR
"""

from foveation_jax.config import transforms_run


def get_config():
    return transforms_run().lock()
