"""REPA (arXiv:2410.06940): EDM2's files of moments, in a folder beside the images."""

from tcae_cli.exports.moments import INDEX, MomentFiles

_SCALE_NOTE = (
    "REPA scales latents with constants of Stable Diffusion's VAE, of 4 channels: in its train.py and generate.py set "
    "latents_scale to 1 / channel_std and latents_bias to -channel_mean / channel_std, of statistics in "
    "tcae_export.json, build the model with in_channels {channels} on a grid of {height} x {width}, and decode "
    "(samples - latents_bias) / latents_scale with this store's encoder's model in place of its vae"
)
_IMAGES_NOTE = (
    "REPA pairs vae-sd with a folder images beside it by sorted name: put the {size} px crop of the image that "
    "vae-sd/dataset.json names under keys as 00000/img-mean-std-00000000.npy at images/00000/img00000000.png, and so on"
)


class Repa(MomentFiles):
    """The files of MomentFiles below vae-sd."""

    name = "repa"
    trainer = "REPA"
    contents = "EDM2's .npy files of moments and dataset.json, below vae-sd"
    subfolder = "vae-sd/"
    closing_names = (subfolder + INDEX,)

    @property
    def notes(self) -> list[str]:
        channels, height, width = self.rows.shape
        return [
            _IMAGES_NOTE.format(size=self.rows.view.size),
            _SCALE_NOTE.format(channels=channels, height=height, width=width),
        ]
