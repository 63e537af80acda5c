"""Progress over inputs of very different lengths, on standard error if that is a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Progress:
    """A bar that advances with the sizes of the inputs, and so can tell when all will be done."""

    def __init__(
        self,
        files: Sequence[str],
        *,
        sizes: Sequence[int] | None = None,
        unit: str = "files",
    ) -> None:
        """Show the bar.

        Args:
            files: what is worked on.
            sizes: how much work each of them is; None: the bytes of the files.
            unit: what they are called.
        """
        from tqdm import tqdm  # which ``--help`` must not wait for

        self._weights = [_size(file) for file in files] if sizes is None else list(sizes)
        self._unit = unit
        self._shares = [0.0] * len(files)
        self._num_done = 0
        self._bar = tqdm(
            desc="loading the model",
            total=sum(self._weights),
            disable=None,
            leave=False,
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]",
        )

    def start(self) -> None:
        """Begin to measure time: what comes before says nothing about the files."""
        self._bar.reset()
        self._show()

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees the bar."""
        return not self._bar.disable

    def advance(self, index: int, share: float) -> None:
        """Note that so much of a file is done, 0 to 1."""
        step = max(share - self._shares[index], 0.0)
        self._shares[index] += step
        self._bar.update(step * self._weights[index])

    def finish(self, index: int) -> None:
        """Note that a file is done."""
        self._num_done += 1
        self._show()
        self.advance(index, 1.0)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Let something else be printed."""
        if not self.is_shown:
            yield
            return
        self._bar.clear()
        yield
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _show(self) -> None:
        text = f"{self._num_done}/{len(self._weights)} {self._unit}"
        self._bar.set_description_str(text, refresh=False)


def _size(file: str) -> int:
    try:
        return max(os.path.getsize(file), 1)
    except OSError:  # standard input, or not there
        return 1
