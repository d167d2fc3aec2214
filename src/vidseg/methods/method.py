"""The contract of a method's class: how it is made by name, and what its authors published."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from vidseg.classes import ClassSet
from vidseg.segmenter import VideoSegmenter

Options = dict[str, Any]
"""Arguments of a method's constructor, by name."""


class Method(VideoSegmenter):
    """A published method: a segmenter with named variants, and its authors' checkpoints.

    The constructor takes `num_classes` and otherwise keyword arguments alone, each with a default.

    Attributes:
        variants: name -> arguments of the constructor. "tiny", small enough for tests, is among
            them. `create` takes FAMILY_VARIANT, or FAMILY where a variant's name is empty.
        whole_names: the variants whose name says it all: `create` takes them without the family.
        twins: variant -> the name of the per-frame model that it is compared with.
        official_names: what `load_official` calls the checkpoints that become this class; none
            where its authors published none.
        official_classes: number of classes -> the authors' data set of as many.
    """

    variants: ClassVar[Mapping[str, Options]]
    whole_names: ClassVar[frozenset[str]] = frozenset()
    twins: ClassVar[Mapping[str, str]] = {}
    official_names: ClassVar[tuple[str, ...]] = ()
    official_classes: ClassVar[Mapping[int, ClassSet]] = {}

    @classmethod
    def tiny(cls, num_classes: int = 5, **options: Any) -> Self:
        """A network small enough for tests and the demo."""
        return cls(num_classes, **{**cls.variants["tiny"], **options})

    @classmethod
    def names(cls, family: str) -> dict[str, str]:
        """The names that `create` takes for this class, each with its variant."""
        return {cls._name(family, variant): variant for variant in cls.variants}

    @classmethod
    def name_of(cls, family: str, options: Options) -> str:
        """The name of the variant that arguments of the constructor belong to.

        The first one that fits in every option that the variants differ in; where none fits in
        all of them, the first of the same backbone, since the other options are kept by the card.
        """
        kept = [v for v, made in cls.variants.items() if made["backbone"] == options["backbone"]]
        exact = [v for v in kept if cls.variants[v].items() <= options.items()]
        return cls._name(family, (exact or kept)[0])

    @classmethod
    def from_official(
        cls, tensors: dict[str, Tensor], *args: Any, **options: Any
    ) -> tuple[Self, Options]:
        """Build the model that an authors' state dict belongs to.

        Args:
            tensors: the state dict, under the authors' names.
            args: none; so written that methods may name their own options.
            options: what the tensors cannot tell.

        Returns:
            The model, and the arguments that it was made with.

        Raises:
            ValueError: keys are missing, unexpected or mis-shaped (all are listed); an option is
                required, or contradicts the tensors.
        """
        raise NotImplementedError

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """What it starts from where it is given weights of another model: names are its own.

        Args:
            tensors: the state dict of that model, such as its twin.
        """
        return tensors

    @classmethod
    def dead_keys(cls, tensors: dict[str, Tensor]) -> dict[str, str]:
        """The keys of an authors' checkpoint that play no part: key -> reason."""
        return {}

    @classmethod
    def _name(cls, family: str, variant: str) -> str:
        if variant in cls.whole_names:
            return variant
        return f"{family}_{variant}" if variant else family
