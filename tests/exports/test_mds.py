"""MosaicML's MDS, where its library is installed."""

from importlib.util import find_spec

import numpy as np
import pytest

from tcae_cli.errors import StoreError, UsageError

INSTALLED = find_spec("streaming") is not None


@pytest.mark.skipif(INSTALLED, reason="streaming is installed")
def test_without_the_library_its_name_is_told(export, tmp_path):
    with pytest.raises(UsageError, match="--format mds needs MosaicML's streaming; run pip install mosaicml-streaming"):
        export("out", "mds")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not INSTALLED, reason="streaming is not installed")
def test_streaming_reads_scaled_float16_labels_and_captions(export, store):
    from streaming import StreamingDataset

    done = export("out", "mds")

    dataset = StreamingDataset(local=str(done.target), shuffle=False, batch_size=1)

    samples = [dataset[index] for index in range(len(dataset))]
    latents = np.stack([np.frombuffer(sample["latents_64"], np.float16).reshape(8, 2, 2) for sample in samples])
    scaled = store.latents(store.ok_rows).astype(np.float32) * np.float32(done.report.scale)
    assert np.array_equal(latents, scaled.astype(np.float16))
    assert [sample["label"] for sample in samples] == store.labels()[store.ok_rows].tolist()
    assert [sample["caption"] for sample in samples] == store.captions(store.ok_rows)
    assert len(list(done.target.glob("0*"))) == 3  # eight rows a folder


@pytest.mark.skipif(not INSTALLED, reason="streaming is not installed")
def test_values_beyond_float16_are_refused(export):
    with pytest.raises(StoreError, match=r"latents times 1e\+07 are beyond float16; pass a lower --scale"):
        export("out", "mds", scale=1e7)
