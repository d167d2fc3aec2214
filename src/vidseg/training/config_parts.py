"""What every part of a config is made of: bounded numbers, and models that refuse unknown keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vidseg.documents import MAX_TEXT

Positive = Annotated[int, Field(gt=0, le=10**9)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(gt=0, le=16384)]  # 16K
Many = Annotated[int, Field(gt=0, le=65536)]
Offset = Annotated[int, Field(ge=-(10**6), le=10**6)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1e9)]
Pixel = Annotated[float, Field(ge=-65535, le=65535)]
Deviation = Annotated[float, Field(ge=1e-6, le=65535)]


class Part(BaseModel):
    """A part of the config: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        str_max_length=MAX_TEXT,
    )
