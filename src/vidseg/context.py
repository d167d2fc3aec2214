"""What a model knows of a whole video, beside its memory: a value that saves and loads itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
        kind: what they are called in messages.

    Example:
        >>> Prototypes(torch.zeros(1, 100, 256)).centers.shape
        torch.Size([1, 100, 256])
    """

    kind: ClassVar[str] = "prototypes"
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
        kind: what they are called in messages.

    Example:
        >>> QueryClasses(torch.zeros(1, 200, 125)).logits.shape
        torch.Size([1, 200, 125])
    """

    kind: ClassVar[str] = "class logits"
    logits: Tensor
    video: str = ""

    def to(self, *args: Any, **options: Any) -> "QueryClasses":
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
            raise ValueError(f"class logits are saved as .safetensors, got {path.name}")
        tensors = {"logits": self.logits.detach().cpu().contiguous()}
        write_tensors(path, tensors, {"video": self.video})

    @classmethod
    def load(cls, path: str | Path) -> "QueryClasses":
        """Read what `save` wrote.

        Args:
            path: a .safetensors file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, holds no class logits, or values that are not finite.
        """
        tensors, metadata = read_tensors(path)
        logits = tensors.get("logits")
        if logits is None or logits.dim() != 3 or not logits.is_floating_point():
            raise ValueError(f"{path} holds no class logits (B, Q, K + 1) of floats")
        if not bool(logits.isfinite().all()):
            raise ValueError(f"{path} holds values that are not finite; make or copy it again")
        return cls(logits, metadata.get("video", ""))


register_value(QueryClasses, static=frozenset({"video"}))


def load_context(path: str | Path) -> Prototypes | QueryClasses:
    """Read the context of a video, of whichever kind the file holds.

    Args:
        path: as `Prototypes.load` and `QueryClasses.load` take it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as the kind's own `load`.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and path.is_file() and "logits" in read_tensors(path)[0]:
        return QueryClasses.load(path)
    return Prototypes.load(path)
