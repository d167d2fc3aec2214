"""What a model knows of a whole video, beside its memory: a value that saves and loads itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from vidseg.values import register_value
from vidseg.weights import read_tensor, read_tensors, write_tensors


@dataclass(frozen=True)
class Prototypes:
    """K typical features of each of B videos.

    Attributes:
        centers: (B, K, D).
        video: the name of the video that they are of, where it is known.

    Example:
        >>> Prototypes(torch.zeros(1, 100, 256)).centers.shape
        torch.Size([1, 100, 256])
    """

    centers: Tensor
    video: str = ""

    def to(self, *args: Any, **options: Any) -> "Prototypes":
        """The same on another device or of another dtype; arguments as `Tensor.to`."""
        return pytree.tree_map(lambda leaf: leaf.to(*args, **options), self)

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file, whole or not at all.

        Args:
            path: the file.

        Raises:
            ValueError: the path has another suffix.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"prototypes are saved as .safetensors, got {path.name}")
        tensors = {"centers": self.centers.detach().cpu().contiguous()}
        write_tensors(path, tensors, {"video": self.video})

    @classmethod
    def load(cls, path: str | Path) -> "Prototypes":
        """Read what `save` wrote, or a file of the method's authors.

        Args:
            path: a .safetensors file; or the authors' `centers.pt`, a tensor (1, K, D), or the
                folder of a video that holds one.

        Returns:
            The prototypes. Those of the authors are named by the folder they lie in.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds no such tensor, or values that are not finite.
        """
        path = Path(path)
        if path.is_dir() and not (path / "centers.pt").is_file():
            raise FileNotFoundError(
                f"the folder {path} holds no centers.pt; other .pt files in it, of which the "
                "authors' code draws a part anew each time, are not read"
            )
        if path.is_dir():
            path = path / "centers.pt"
        if path.suffix == ".safetensors":
            tensors, metadata = read_tensors(path)
            centers, video = tensors.get("centers"), metadata.get("video", "")
        else:
            centers, video = read_tensor(path).detach(), path.absolute().parent.name
        if centers is None or centers.dim() != 3 or not centers.is_floating_point():
            found = "no `centers`" if centers is None else f"{tuple(centers.shape)} {centers.dtype}"
            raise ValueError(f"{path} holds {found}, wanted prototypes (B, K, D) of floats")
        if not bool(centers.isfinite().all()):
            raise ValueError(f"{path} holds values that are not finite; make or copy it again")
        return cls(centers, video)


register_value(Prototypes, static=frozenset({"video"}))


@dataclass(frozen=True)
class QueryClasses:
    """Class logits of Q queries, averaged over the whole of each of B videos.

    Attributes:
        logits: (B, Q, K + 1), the mean over all frames; the last class is "no object".
        video: the name of the video that they are of, where it is known.

    Example:
        >>> QueryClasses(torch.zeros(1, 200, 125)).logits.shape
        torch.Size([1, 200, 125])
    """

    logits: Tensor
    video: str = ""

    def to(self, *args: Any, **options: Any) -> "QueryClasses":
        """The same on another device or of another dtype; arguments as `Tensor.to`."""
        return pytree.tree_map(lambda leaf: leaf.to(*args, **options), self)


register_value(QueryClasses, static=frozenset({"video"}))
