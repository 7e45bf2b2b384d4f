"""Every picture of a folder as the four stage-1 systems of arXiv 2006.07991 see it.

Claim: Foveation-Texture keeps a clear centre and turns the periphery into texture of the same local
statistics; the two blurs lose as much, in mean SSIM to Reference, by other means.
Expected: pictures under WORKDIR/SYSTEM/, one row a picture and system in WORKDIR/metrics.jsonl, and
WORKDIR/report.html; mean SSIM of the three compressed systems equal to within .01 on these
pictures, the achieved gaps printed with their intervals.
Cost: compilation once (kept in --compilation_cache_dir), then `./run.sh bench foveation` has the
seconds a picture.

    ./run.sh foveation --config=configs/foveation/transforms.py --config.images=FOLDER --workdir=DIR
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    config = config_dict.ConfigDict()
    config.job = "transforms"
    # A folder (its sub-folders, if any, are classes), "tfds:NAME", or "" for the embedded pictures:
    # synthetic scenes, and scikit-image's photographs where that package is installed.
    config.images = ""
    config.split = "train"  # of a TFDS data set
    config.data_dir = ""  # of TFDS; its own default if empty
    config.limit = 0  # use the first so many pictures; 0 for all
    config.systems = ("reference", "foveation_texture", "uniform_blur", "foveation_blur")
    config.size = (256, 256)  # rows and columns that every picture is brought to
    # "crop" to that shape, or "pad" with grey; "native" leaves pictures as they are: all must have
    # the size of the first, `size` is not looked at.
    config.fit = "crop"
    config.scale = 0.4  # s, window width over eccentricity
    config.fixation = config_dict.placeholder(tuple)  # (y, x) in pixels; the centre if unset
    # Or FILE.csv with a line "image,y,x" for each picture, NAME as under WORKDIR/SYSTEM/NAME.png.
    config.fixations = ""
    config.field_of_view = 26.0  # degrees that the width subtends
    config.published = False  # cut windows and corner slivers as in the published masks
    config.route = "disarray"  # or "pyramid", "vgg"
    config.weights = ""  # of the vgg route: FILE, or ENCODER,DECODER
    config.blend = "partition"  # of the vgg route: or "overwrite", as published
    config.colours = "image"  # of the vgg route: or "region", noise in the colours of each region
    # The blurs' mean SSIM to Reference is within `match_tolerance` of the texture's, whole and in
    # each ring, on up to 1000 of this run's pictures. Where the shipped sigmas do not achieve that,
    # they are matched on `match_images` of these, or more as needed; a gap that stays leaves the
    # blur out.
    config.match_images = 64
    config.match_tolerance = 0.01
    config.seed = 0  # of the noise and of the embedded scenes
    config.batch_size = 8
    config.records = False  # also pack each system's pictures into array_record files
    config.metrics = ("mse", "psnr", "ssim", "ms_ssim", "gmsd", "vif", "mutual_information")
    config.report_images = 6  # pictures shown in full on the page
    return config.lock()
