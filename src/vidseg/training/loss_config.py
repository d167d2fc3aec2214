"""What is added up to the training loss, as a part of the config."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vidseg.training.config_parts import Count, Part, Rate, Share


class TemporalConfig(Part):
    """ETC's motion-guided temporal loss; see vidseg.losses.temporal_loss."""

    weight: Rate = Field(0.1, description="of the term")
    on: Literal["logits", "probabilities"] = Field(
        "logits", description="what is compared: as ETC's code, or as its paper"
    )
    colour: Literal["signed-sum", "absolute-sum"] = Field(
        "signed-sum", description="colour differences of the mask: as ETC's code, or its paper"
    )
    occlusion: bool = Field(
        False, description="leave out pixels whose flow there and back disagree"
    )
    flow: str = Field("dis", description="dis, dis-fast, dis-ultrafast, raft-small, raft-large")
    flow_weights: str | None = Field(None, description="file of RAFT's weights; the hub's if none")
    flow_cache: str | None = Field(None, description="folder in which flow is kept between epochs")


class DistillationConfig(Part):
    """The terms by which a per-frame student copies a teacher; see vidseg.losses.distillation."""

    teacher: str = Field(description="weights or run folder, as vidseg.load takes it")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the teacher")
    precomputed: str | None = Field(
        None, description="folder for the teacher's scores of whole frames: it then runs once only"
    )
    pixel: Rate = Field(0.0, description="weight: class probabilities of each pixel")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of these probabilities")
    pair_wise: Rate = Field(0.0, description="weight: likeness of the pixels of a frame")
    pair_wise_frames: Rate = Field(0.0, description="weight: likeness across two frames (PF)")
    affinity: Literal["cosine", "swapped-norms"] = Field(
        "cosine", description="of PF: as ETC's paper, or as its code"
    )
    multi_frame: Rate = Field(0.0, description="weight: what a ConvLSTM keeps of the frames (MF)")
    multi_frame_of: Literal["similarity", "channels"] = Field(
        "similarity", description="what the ConvLSTM reads of each frame"
    )
    multi_frame_limit: Annotated[float, Field(gt=0)] = Field(
        1.0, description="the ConvLSTM's weights are clipped to +- this after each step"
    )
    enlarging: Rate = Field(
        0.1, description="weight, within multi_frame, of the term against its collapse"
    )

    @model_validator(mode="after")
    def _is_complete(self) -> "DistillationConfig":
        if not (self.pixel or self.pair_wise or self.pair_wise_frames or self.multi_frame):
            raise ValueError(
                "loss.distillation needs a weight above 0 for pixel, pair_wise, pair_wise_frames "
                "or multi_frame"
            )
        if self.precomputed is not None and (self.pair_wise or self.multi_frame):
            raise ValueError(
                "loss.distillation.precomputed keeps the teacher's scores, not its features, "
                "which pair_wise and multi_frame compare; leave one or the other out"
            )
        return self


class GroupedConfig(Part):
    """TDNet's grouped distillation: each path copies the teacher's channels that it stands for."""

    teacher: str = Field(description="weights or run folder of a PSPNet, as vidseg.load takes it")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the teacher")
    weight: Rate = Field(
        1.0, description="of the term; within it the frame alone has loss.frame_weight"
    )


class OhemConfig(Part):
    """Online hard example mining; see vidseg.losses.criterion.HardPixels."""

    threshold: Share = Field(0.7, description="pixels whose true class has at most this count")
    min_kept: Count = Field(100_000, description="pixels kept at least")
    auxiliary: bool = Field(False, description="also of the auxiliary heads")
    form: Literal["etc", "tdnet"] = Field(
        "etc",
        description="etc: by probability, among valid pixels; tdnet: the first of all losses "
        "sorted, ignored pixels as zeros",
    )


class LossConfig(Part):
    """Cross entropy of the main and the auxiliary head, and what is added to it."""

    aux_weight: Rate = Field(0.4, description="weight of each auxiliary head's loss")
    frame_weight: Rate = Field(
        0.5,
        description="weight of the loss of frames by themselves, where the model gives such "
        "logits: of all of a clip (CFFM), of the last one without its memory (TDNet)",
    )
    average: Literal["valid", "all"] = Field(
        "valid", description="all: ignored pixels count in the denominator (official TMANet)"
    )
    class_weights: tuple[float, ...] | None = Field(
        None, max_length=65535, description="one number per class"
    )
    ohem: OhemConfig | None = Field(None, description="count the hard pixels alone")
    temporal: TemporalConfig | None = Field(
        None, description="the motion-guided temporal loss of ETC; needs data.neighbours"
    )
    distillation: DistillationConfig | None = Field(
        None, description="what is copied from a teacher; needs data.neighbours"
    )
    grouped: GroupedConfig | None = Field(
        None, description="what each path of TDNet copies from a teacher"
    )

    @model_validator(mode="after")
    def _counts_one_way(self) -> "LossConfig":
        if self.ohem is not None and self.average == "all":
            raise ValueError(
                "loss.ohem averages over the pixels that it keeps, loss.average=all over every "
                "pixel; leave one of them out"
            )
        return self
