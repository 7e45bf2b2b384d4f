"""Pictures of all systems, written as files and packed as records."""

import jax
import numpy as np

from foveation_jax.data import open_folder, read_image
from foveation_jax.stage1.export import export_pictures, pack_records, shard_images, whole_batches
from tests.foveation.data.test_images import levels


def _inverted(calls):
    def apply(images, digests):
        calls.append(len(digests))
        return 1 - images

    return apply


def test_export_writes_all_but_the_failures_and_goes_on_where_it_stopped(folder, tmp_path):
    source, out, calls, steps = open_folder(folder), tmp_path / "out", [], []
    systems = {"inverted": _inverted(calls)}
    failures = export_pictures(source, systems, out, (20, 20), 3, steps.append)
    assert list(failures) == ["kitchen/notes"]
    assert sum(steps) == 7
    seen = read_image(out / "inverted" / "attic" / "1.png")
    np.testing.assert_allclose(seen, 1 - levels(51, (20, 20, 3)) / 255, atol=1e-6)
    pictures = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert len(pictures) == 6
    assert all(p.endswith(".png") for p in pictures)

    calls.clear()
    (out / "inverted" / "attic" / "1.png").unlink()
    export_pictures(source, systems, out, (20, 20), 3)
    assert calls == [jax.device_count()]  # one picture a device, once
    np.testing.assert_array_equal(read_image(out / "inverted" / "attic" / "1.png"), seen)


def test_images_are_split_over_devices():
    assert whole_batches(3) % jax.device_count() == 0
    images = shard_images(np.zeros((2 * jax.device_count(), 16, 16, 3), np.float32))
    assert len(images.sharding.device_set) == jax.device_count()
    assert images.addressable_shards[0].data.shape[0] == 2


def test_records_hold_names_labels_and_pictures(folder, tmp_path):
    from array_record.python.array_record_module import ArrayRecordReader
    from flax.serialization import msgpack_restore

    source, out = open_folder(folder), tmp_path / "out"
    export_pictures(source, {"inverted": _inverted([])}, out, (20, 20), 4)
    (path,) = pack_records(source, out / "inverted")
    assert path.name == "inverted-00000-of-00001.array_record"
    reader = ArrayRecordReader(str(path))
    records = [msgpack_restore(r) for r in reader.read_all()]
    reader.close()
    assert [r["name"] for r in records] == list(source.names[:-1])
    assert records[4]["class"] == "kitchen"
    assert records[4]["label"] == 1
    assert records[4]["png"] == (out / "inverted" / "kitchen" / "1.png").read_bytes()
    written = path.stat().st_mtime_ns
    pack_records(source, out / "inverted")
    assert path.stat().st_mtime_ns == written
