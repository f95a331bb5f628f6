"""Two runs of `tcae export` to one target."""

import pytest

from tcae_cli.errors import DiskError
from tcae_cli.store.reader import LatentStore

from .conftest import files_of


@pytest.mark.parametrize(("target", "export_format"), [("out", "dc-ae"), ("out", "npy"), ("out.zip", "edm2")])
def test_a_target_that_another_run_is_writing_is_refused_and_left_alone(
    export, monkeypatch, target, export_format, tmp_path
):
    whole, right, refused = files_of(export(f"whole-{target}", export_format).target), LatentStore.latents, []

    def meanwhile(*arguments):
        if not refused:
            before = files_of(tmp_path)
            with pytest.raises(DiskError) as raised:
                export(target, export_format)
            refused.append(str(raised.value))
            assert files_of(tmp_path) == before
        return right(*arguments)

    monkeypatch.setattr(LatentStore, "latents", meanwhile)
    first = export(target, export_format)

    assert refused == [
        f"{first.target} is being written by another tcae export; wait for it to end, or name another path"
    ]
    assert first.report.num_written_now == 23
    assert files_of(first.target) == whole and not list(tmp_path.rglob(".*"))
