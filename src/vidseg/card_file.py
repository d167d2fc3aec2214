"""What a card may say that is read from a file, by anybody: the bounds of each field."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from vidseg.classes import MAX_CLASSES
from vidseg.documents import MAX_TEXT, Options

Byte = Annotated[int, Field(ge=0, le=255)]
Pixel = Annotated[float, Field(ge=-65535, le=65535)]
Deviation = Annotated[float, Field(ge=1e-6, le=65535)]
Side = Annotated[int, Field(ge=1, le=65535)]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Name = Annotated[str, StringConstraints(max_length=200)]


class CardFile(BaseModel):
    """The fields of a `Card`, which says what they are; those of later versions are passed over."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")

    architecture: Name = ""
    options: Options = {}
    classes: Annotated[tuple[Name, ...], Field(max_length=MAX_CLASSES)] = ()
    palette: Annotated[tuple[tuple[Byte, Byte, Byte], ...], Field(max_length=MAX_CLASSES)] = ()
    mean: tuple[Pixel, Pixel, Pixel] = (0, 0, 0)
    std: tuple[Deviation, Deviation, Deviation] = (1, 1, 1)
    size_multiple: Annotated[int, Field(ge=1, le=4096)] = 1
    size_offset: Annotated[int, Field(ge=0, le=4096)] = 0
    size: tuple[Side, Side] | None = None
    fps: Annotated[float, Field(gt=0, le=1e6)] | None = None
    trained_on: Text = ""
    source: Text = ""
    licence: Text = ""
    figures: Annotated[dict[Name, int | float], Field(max_length=10_000)] = {}

    @field_validator("options")
    @classmethod
    def _bring_no_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The weights of a file are in the file: none is fetched because a card says so."""
        if options.get("backbone_weights") is not None:
            raise ValueError("backbone_weights has no place in a card; leave it out")
        return options
