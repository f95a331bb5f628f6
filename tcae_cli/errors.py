"""The errors that a user can cause: a sentence that names the thing, what was found and the fix, and an exit code.

Exit codes: 1 the work failed (contents, disk, device), 2 the command line or the recipe cannot work.
Anything that is not a TcaeError is a bug and shows its traceback.
"""

from collections.abc import Mapping


class TcaeError(Exception):
    """Something a user can put right; the message is the sentence shown."""

    exit_code = 1


class UsageError(TcaeError):
    """The command line cannot work as typed."""

    exit_code = 2


class RecipeError(UsageError, ValueError):
    """A recipe has an unknown key or an impossible value."""


class FieldError(UsageError):
    """A source has nothing to choose by an option that names a part of its samples."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field  # of SampleFields

    @property
    def option(self) -> str:
        """The option that names the field."""
        return f"--{self.field.replace('_', '-')}"

    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str]]:
        return type(self), (self.field, str(self))


class NotFoundError(UsageError, FileNotFoundError):
    """A path or name given by the user leads nowhere."""


class SourceError(TcaeError):
    """A source of images cannot be used as a whole."""


class ImageError(TcaeError):
    """One image cannot be used; it costs its row and nothing else."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage  # as Failure.stage

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.stage, str(self))


class StoreError(TcaeError):
    """A store cannot be opened, resumed or written."""


class DiskError(TcaeError, OSError):
    """Something cannot be written, or an object read: disk full, quota, permission, folder gone."""


class CheckpointError(TcaeError, ValueError):
    """A file is not a tcae checkpoint, or not the one it says it is."""


class WeightsError(TcaeError):
    """A pretrained network's weights are missing or do not fit."""


class DeviceError(TcaeError, RuntimeError):
    """A device is absent, or too small for the work."""


class DeviceMemoryError(DeviceError):
    """A batch of so many images does not fit into the memory of a device.

    options: those with which the same command takes less memory and computes the same; a flag's value is "".
    """

    def __init__(self, message: str, batch_size: int = 0, options: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.batch_size = batch_size
        self.options = dict(options or {})
