"""A base class of objects that are started and closed, also by ``with``."""

from abc import ABCMeta, abstractmethod
from types import TracebackType
from typing import Self


class Managed(metaclass=ABCMeta):
    """Starts on entering ``with``, and closes on leaving it or if the start fails."""

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    @abstractmethod
    def close(self) -> None:
        """Stop it, and release its resources."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
