"""What a training run is: one validated value."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vidseg.documents import MAX_COUNT, Options
from vidseg.inside import fault_of
from vidseg.training.config_parts import (
    Count,
    Deviation,
    Many,
    Offset,
    Part,
    Pixel,
    Positive,
    Rate,
    Share,
    Side,
)
from vidseg.training.loss_config import LossConfig


class ModelConfig(Part):
    """Which model, and what it starts from."""

    name: str = Field(description="as vidseg.create takes it, such as tmanet_r50")
    options: Options = Field({}, description="further arguments of vidseg.create")
    backbone_weights: str | None = Field(None, description='a file, or "imagenet" (the hub)')
    initial_weights: str | None = Field(
        None, description="weights of another vidseg model; every tensor that fits is taken over"
    )
    void: bool = Field(
        False,
        description="a further class, the last, for pixels of no class, as the authors' weights of "
        "ERFNet and LMANet have it; it is never right",
    )
    unfold_bn: Count = Field(
        0,
        description="for backbone weights with folded batch norms: training images that give the "
        "norms statistics before the first step",
    )


class ChosenMemory(Part):
    """Memory frames other than the model's window: every n-th one, or drawn at random."""

    every: Positive | None = Field(None, description="every N-th frame before the labelled one")
    drawn_within: Positive | None = Field(
        None, description="drawn once from the last N frames before the labelled one"
    )
    gap_within: Annotated[int, Field(gt=0, le=8)] | None = Field(
        None, description="each 1 to N frames before the next one, drawn anew for every sample"
    )
    frames: Annotated[int, Field(gt=0, le=1024)] | None = Field(
        None, description="how many; by default as many as the model's window has"
    )
    start: Literal["repeat", "skip"] = Field(
        "repeat", description="at a video's start repeat the first frame, or skip the sample"
    )

    @model_validator(mode="after")
    def _is_one_choice(self) -> "ChosenMemory":
        given = [x for x in (self.every, self.drawn_within, self.gap_within) if x is not None]
        if len(given) != 1:
            raise ValueError(
                "memory frames are chosen by every, by drawn_within or by gap_within, give one"
            )
        return self


class Source(Part):
    """A data set: what vidseg.data.open_dataset takes."""

    kind: str = Field(
        description="camvid, cityscapes, folder, kitti-step, synthetic, vipseg or vspw"
    )
    root: str | None = Field(None, description="folder of the data set")
    split: str = Field("train", description="part of the data set")
    options: Options = Field({}, description="further arguments of open_dataset")


class NeighboursConfig(Part):
    """The frames near the labelled one that temporal and distillation losses read."""

    offsets: tuple[Offset, ...] = Field(
        (-3, -2, -1, 1, 2, 3),
        max_length=1000,
        description="distances in frames, one drawn for each sample; ETC's authors never draw -3",
    )
    triplet: bool = Field(
        False, description="the frames before and after, at a drawn distance, instead of one"
    )
    video: Source | None = Field(
        None,
        description="unlabelled video to take frames and motion from, beside the labelled frames",
    )

    @field_validator("offsets")
    @classmethod
    def _are_distances(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or 0 in value:
            raise ValueError("offsets must be distances in frames other than 0")
        return value


class DataConfig(Source):
    """Training samples: where from, which memory frames, how augmented."""

    memory: Literal["window", "skip"] | ChosenMemory = Field(
        "window",
        description="window: the frames of the model's window_frames; skip: the preceding frames, "
        "samples at a video's start left out; every: N, every N-th frame; drawn_within: N, drawn "
        "from the last N frames",
    )
    sampling: Literal["frames", "videos"] = Field(
        "frames",
        description="an epoch has each labelled frame once (frames), or one of each video, drawn "
        "anew each time (videos), as CFFM's on VSPW",
    )
    reverse: Share = Field(
        0.0,
        description="probability of a window in the video as it runs backwards: later frames, the "
        "latest first; the other direction where frames are missing",
    )
    crop: tuple[Side, Side] = Field(description="height, width of a sample, px")
    base_size: tuple[Side, Side] | None = Field(
        None, description="width, height that scale 1 stands for; the image's own by default"
    )
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the random scale")
    max_class_share: Share = Field(0.75, description="a crop is redrawn if one class has more")
    flip: Share = Field(0.5, description="probability of a mirrored clip")
    photometric: Literal["clip", "frame", "none"] = Field(
        "clip", description="one draw of colour changes for the clip, for each frame, or none"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        0.0, description="largest angle in degrees; every other sample is turned"
    )
    blur: Share = Field(0.0, description="probability of a Gaussian blur of 5x5 px")
    translate_px: Annotated[int, Field(ge=0, le=16384)] = Field(
        0,
        description="largest shift of the clip in x and y, whole pixels; what it bares is ignored",
    )
    padding: Literal["start", "centre"] = Field(
        "start", description="where an image smaller than the crop goes"
    )
    context: str | None = Field(
        None,
        description="folder for what a model reads of whole videos (CFFM++'s prototypes), found "
        "before the first step; by default in the run folder. Runs share what is the same. Or a "
        "folder that holds it: VIDEO.safetensors, or the authors' VIDEO/centers.pt",
    )
    neighbours: NeighboursConfig | None = Field(
        None, description="frames near the labelled one; loss.temporal and distillation need them"
    )
    mean: tuple[Pixel, Pixel, Pixel] | None = Field(
        None, description="RGB, 0..255; the model's card by default"
    )
    std: tuple[Deviation, Deviation, Deviation] | None = Field(
        None, description="RGB, 0..255; the model's card by default"
    )

    @field_validator("scale")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.01 <= value[0] <= value[1] <= 100:
            raise ValueError(f"scale must be (smallest, largest) of 0.01 to 100, got {value}")
        return value

    @model_validator(mode="after")
    def _is_sampled_one_way(self) -> "DataConfig":
        if self.neighbours is not None and (self.sampling == "videos" or self.reverse):
            raise ValueError(
                "data.neighbours chooses the frames beside each labelled frame; leave out "
                "data.sampling=videos and data.reverse, or the neighbours"
            )
        return self


class ValidationConfig(Part):
    """Validation during training, on whole images."""

    every: Count = Field(1000, description="steps between; 0 for never")
    kind: str | None = Field(None, description="as data.kind, which is the default")
    root: str | None = Field(None, description="as data.root, which is the default")
    split: str = Field("val", description="part of the data set")
    options: Options | None = Field(None, description="as data.options (the default)")
    limit: Positive | None = Field(None, description="labelled frames at most, evenly spread")
    sliding: tuple[tuple[Side, Side], tuple[Side, Side]] | None = Field(
        None, description="[[crop height, width], [stride height, width]]; whole images by default"
    )
    scale: Annotated[float, Field(gt=0, le=8)] = Field(
        1.0, description="ratio at which the model sees the frames; labels keep their size"
    )
    samples: Annotated[int, Field(ge=0, le=10_000)] = Field(3, description="overlays to write")


class OptimiserConfig(Part):
    """The optimiser and its parameter groups."""

    kind: Literal["sgd", "adam", "adamw"] = Field("sgd", description="optimiser")
    lr: Annotated[float, Field(gt=0, le=1e9)] = Field(0.01, description="base rate")
    momentum: Share = Field(0.9, description="of SGD")
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="of Adam and AdamW")
    weight_decay: Rate = Field(5e-4, description="L2 penalty (SGD, Adam), decoupled decay (AdamW)")
    head_multiplier: Rate = Field(1.0, description="rate of everything but the backbone, times lr")
    decay: Literal["all", "weights", "not-norms", "not-backbone-norms"] = Field(
        "all",
        description="what is decayed: all; weights: neither norms nor biases; not-norms: all but "
        "norms; not-backbone-norms: all but those of the backbone, as CFFM's code does",
    )
    idle: Literal["rest", "decay"] = Field(
        "rest",
        description="parameters without a gradient in a step (TDNet's idle paths): they rest, or "
        "decay and coast on, as with its authors' torch",
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="rate of each layer of a pre-trained transformer, times that of the layer "
        "above it (VidEoMT: 0.6)",
    )
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest norm of the gradient; none by default"
    )


class PlateauConfig(Part):
    """Falls when the mean training loss of an epoch no longer does; see schedule.Plateau."""

    factor: Annotated[float, Field(gt=0, lt=1)] = Field(0.8, description="the rate times this")
    patience: Count = Field(10, description="epochs without a smaller loss that are let pass")
    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        1e-4, description="share by which a loss must be smaller to count as smaller"
    )


class ScheduleConfig(Part):
    """The learning rate: a polynomial of the step, or, with `plateau`, driven by the loss."""

    power: Rate = Field(0.9, description="of the polynomial; 0 keeps the rate")
    plateau: PlateauConfig | None = Field(
        None, description="falls where the loss does not, instead of the polynomial"
    )
    floor: Rate = Field(0.0, description="smallest rate; what the polynomial ends at")
    warmup_iterations: Count = Field(0, description="steps of warm-up")
    warmup_start: Share = Field(0.1, description="share of the rate at the first step")
    warmup_form: Literal["linear", "exponential"] = Field(
        "linear",
        description="a share of the polynomial, or of the base rate by one factor a step (TDNet)",
    )
    encoder_start: Annotated[int, Field(ge=0)] = Field(
        0, description="steps in which a pre-trained transformer stands still"
    )
    encoder_warmup: Annotated[int, Field(ge=0)] = Field(
        0, description="steps over which its rate grows from nothing afterwards"
    )


class FreezeConfig(Part):
    """Parts of the model that are not trained."""

    parts: tuple[str, ...] | None = Field(
        None, description="modules by name; by default the host of a model with a local memory"
    )
    keep: Literal["weights", "weights+statistics"] = Field(
        "weights+statistics",
        description="weights: dropout and batch norms go on as in training; weights+statistics: "
        "the parts run as in evaluation",
    )


class CheckpointConfig(Part):
    """When the state of the run is written, and how much of it stays."""

    every: Positive = Field(1000, description="steps between checkpoints")
    keep: Positive = Field(2, description="how many of the newest checkpoints stay")


class TrainingConfig(Part):
    """A training run."""

    name: str = Field("run", description="of the run; its folder is runs/NAME by default")
    model: ModelConfig
    data: DataConfig
    validation: ValidationConfig = ValidationConfig()  # pyright: ignore[reportCallIssue]
    loss: LossConfig = LossConfig()  # pyright: ignore[reportCallIssue]
    optimiser: OptimiserConfig = OptimiserConfig()  # pyright: ignore[reportCallIssue]
    schedule: ScheduleConfig = ScheduleConfig()  # pyright: ignore[reportCallIssue]
    checkpoint: CheckpointConfig = CheckpointConfig()  # pyright: ignore[reportCallIssue]
    truncate: Positive | None = Field(
        None,
        description="cut clips into chunks of so many frames: the memory goes on, gradients stop; "
        "each chunk has its own loss (LVMT: 5 of 15)",
    )
    iterations: Positive = Field(description="optimiser steps")
    batch_size: Many = Field(
        8, description="samples per optimiser step, over all processes and accumulated batches"
    )
    accumulate: Many = Field(1, description="batches per optimiser step and process")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the forward pass")
    channels_last: bool = Field(
        False, description="memory format; faster in fp32 on a CPU and in half precision on a GPU"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of the averaged weights, which are then validated and saved"
    )
    sync_bn: bool = Field(False, description="batch norm over all GPUs")
    freeze_bn: Literal["none", "backbone", "all"] = Field(
        "none", description="whose batch norms keep their statistics (eval mode)"
    )
    freeze: FreezeConfig | None = Field(None, description="parts that are not trained")
    deterministic: bool = Field(False, description="deterministic GPU kernels, slower")
    seed: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="of everything that is drawn"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        2, description="loader processes per process"
    )
    log_every: Positive = Field(20, description="steps between lines of the log")
    trackers: tuple[str, ...] = Field(
        ("tensorboard",), description="Accelerate's trackers beside metrics.jsonl and metrics.csv"
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if fault := fault_of(name):
            raise ValueError(f"it {fault}; a run's name is that of its folder, such as camvid")
        return name

    @model_validator(mode="after")
    def _fits(self) -> "TrainingConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} is the number of samples per optimiser step; it "
                f"must be a multiple of accumulate={self.accumulate}"
            )
        distillation, near = self.loss.distillation, self.data.neighbours
        asks = self.loss.temporal or distillation
        if asks and near is None:
            raise ValueError(
                "loss.temporal and loss.distillation compare neighbouring frames; set "
                "data.neighbours, such as data.neighbours={}"
            )
        if distillation and distillation.multi_frame and near and not near.triplet:
            raise ValueError(
                "loss.distillation.multi_frame reads a frame before and one after; set "
                "data.neighbours.triplet=true"
            )
        if near is not None and not asks:
            raise ValueError(
                "data.neighbours brings frames that nothing uses; set loss.temporal or "
                "loss.distillation, or leave it out"
            )
        return self

    def validation_source(self) -> Source:
        """The data set to validate on: what `validation` leaves open is as in `data`."""
        theirs, ours = self.validation, self.data
        return Source(
            kind=theirs.kind or ours.kind,
            root=theirs.root or ours.root,
            split=theirs.split,
            options=ours.options if theirs.options is None else theirs.options,
        )
