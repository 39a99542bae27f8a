"""What is done to training images, and those that cannot be read."""

import pytest
from support.training import folder_of_images, run, run_on

from prune_realloc.core.errors import WorkFailed


def test_images_that_cannot_be_read_are_counted_or_refused(variant, tmp_path):
    data = folder_of_images(tmp_path / "data")
    broken = sorted((data / "train").rglob("*.png"))
    broken[0].write_bytes(b"no image")
    assert run_on(data, variant, tmp_path / "one").unreadable == 1
    for path in broken[:8]:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read"):
        run_on(data, variant, tmp_path / "many")
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read") as failure:
        run_on(data, variant, tmp_path / "all", workers=1)
    assert "\n" not in str(failure.value)


def test_every_policy_of_timms_runs(variant, tmp_path):
    """Its strongest posterize keeps no bit, which is no image."""
    for policy in ("v0", "original", "rand-m10-mstd0.5-inc1", "augmix-m5", "3a"):
        run(variant, tmp_path / policy, epochs=1, auto_augment=policy)
