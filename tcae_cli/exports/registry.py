"""The formats of `tcae export` by name, in the order of help: each is a class in a file of its own, and one line here.

Importing this module imports no format and no torch, so that help stays fast.
"""

from typing import TYPE_CHECKING

from tcae_cli.runtime.registry import Registry

if TYPE_CHECKING:
    from tcae_cli.exports.format import ExportFormat

_ROOM = "tcae_cli.exports"

FORMATS: Registry[type["ExportFormat"]] = Registry(
    {
        "lightningdit": f"{_ROOM}.lightningdit:LightningDiT",
        "edm2": f"{_ROOM}.edm2:Edm2",
        "repa": f"{_ROOM}.repa:Repa",
        "dc-ae": f"{_ROOM}.dc_ae:DcAe",
        "webdataset": f"{_ROOM}.webdataset:WebDataset",
        "mds": f"{_ROOM}.mds:Mds",
        "npy": f"{_ROOM}.npy:Npy",
    }
)
