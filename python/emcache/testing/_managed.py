"""What is started and closed, by hand or by ``with``."""

from abc import ABCMeta, abstractmethod
from types import TracebackType
from typing import Self


class Managed(metaclass=ABCMeta):
    """Started where ``with`` is entered, closed where it is left, and where it does not start."""

    @abstractmethod
    def start(self) -> None:
        """Start it."""

    @abstractmethod
    def close(self) -> None:
        """End it, and give up what it holds."""

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
