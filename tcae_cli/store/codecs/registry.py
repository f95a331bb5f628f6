"""Registers the codecs by name: these are the choices of `--codec`, and a store's root names one of them.

To add one, write its class in a file of this folder and add its line here.
"""

from typing import TYPE_CHECKING

from tcae_cli.runtime.registry import Registry

if TYPE_CHECKING:  # numpy takes long to import, and --help needs only the names
    from tcae_cli.store.codecs.codec import ChunkCodec

CODECS: "Registry[type[ChunkCodec]]" = Registry(
    {
        "zstd": "tcae_cli.store.codecs.zstd:ZstdChunks",
        "none": "tcae_cli.store.codecs.none:RawChunks",
        "lz4-bitshuffle": "tcae_cli.store.codecs.lz4_bitshuffle:BitshuffledChunks",
    }
)
