"""TC-AE: a ViT autoencoder with staged token compression, whose latent positions cover f x f pixels each.

Axes: b batch, h w pixels, c latent channels, f pixels a latent position covers along a side.
"""

from torch import Tensor, nn

from tcae_cli.model.compression import LatentsToTokens, TokensToLatents
from tcae_cli.model.decoder import Decoder
from tcae_cli.model.encoder import Encoder
from tcae_cli.model.layers import init_weights
from tcae_cli.recipe.schema import ModelSpec


class TCAE(nn.Module):
    """The autoencoder. It has no KL term and draws no samples: one latent per image. Source: arXiv:2604.07340."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
        self.to_latents = TokensToLatents(spec.width, spec.fold, spec.latent_channels)
        self.from_latents = LatentsToTokens(spec.width, spec.fold, spec.latent_channels)
        self.decoder = Decoder(spec)
        self.apply(init_weights)

        # The shortcut is set in closed form (training/shortcut.py) and never trained.
        f, c = spec.downsampling, spec.latent_channels
        self.shortcut_in = nn.Conv2d(3, c, f, stride=f).requires_grad_(False) if spec.pixel_shortcut else None
        self.shortcut_out = nn.ConvTranspose2d(c, 3, f, stride=f).requires_grad_(False) if spec.pixel_shortcut else None

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [b, c, h/f, w/f], raw and unscaled, of images [b, 3, h, w] in [-1, 1].

        Raises ValueError if f does not divide h and w.
        """
        return self.encode_with_tokens(images)[0]

    def encode_with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents of encode, and the patch tokens before the bottleneck, [b, h/p, w/p, d]."""
        height, width = images.shape[-2:]
        if height % self.spec.downsampling or width % self.spec.downsampling:
            raise ValueError(f"images of {height}x{width} are not multiples of {self.spec.downsampling}")
        _class_token, tokens = self.encoder(images)
        latents: Tensor = self.to_latents(tokens)
        return (latents if self.shortcut_in is None else latents + self.shortcut_in(images)), tokens

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [b, 3, h, w], about [-1, 1] and not clamped, of latents [b, c, h/f, w/f]."""
        return self.decode_with_last_tokens(latents)[0]

    def decode_with_last_tokens(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of decode, and the input of the decoder's last layer, [b, h/p, w/p, d]."""
        last_tokens = self.decoder.last_tokens(self.from_latents(latents))
        images = self.decoder.draw(last_tokens)
        return images if self.shortcut_out is None else images + self.shortcut_out(latents), last_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Return reconstructions [b, 3, h, w] of images [b, 3, h, w], both in [-1, 1]."""
        return self.decode(self.encode(images))
