"""TRL's weights, published for workers on any host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from broker.weights import Publisher

if TYPE_CHECKING:
    from broker.integrations.trl.rollout_worker import BrokerRolloutWorker


class BrokerWeightTransfer:
    """Publishes the weights of each version as a file of `torch.save`: a dict from names to tensors on the CPU.

    TRL calls its methods on the main process only. The names are those that TRL sends to vLLM: parameters that share
    their memory, such as tied embeddings, come once.

    Args:
        worker: hands the blob of the weights out with their version.
        folder: where they are published, as in `Publisher`; each run has its own.
        keep: as in `Publisher`, and so are `listen`, `url` and `checksum`.
        listen: as in `Publisher`.
        url: as in `Publisher`.
        checksum: as in `Publisher`.
    """

    def __init__(
        self,
        worker: BrokerRolloutWorker,
        folder: str | os.PathLike[str],
        *,
        keep: int = 3,
        listen: str | None = None,
        url: str | None = None,
        checksum: bool = True,
    ) -> None:
        self._worker = worker
        self._open = partial(Publisher, folder, keep=keep, listen=listen, url=url, checksum=checksum)
        self._publisher: Publisher | None = None

    def init_weight_transfer(self) -> None:
        """Opens the folder: not before training, since each rank makes such an object, and one may publish."""
        self._publisher = self._open()

    def pause(self) -> None:
        """Workers load the weights by themselves: nothing is paused."""

    def send_weights(self, iterator: Iterator[tuple[str, Any]]) -> None:
        """Publishes the weights of the version that is about to begin."""
        assert self._publisher is not None, "TRL calls init_weight_transfer first"
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in iterator}
        save = import_module("torch").save
        worker = self._worker
        worker.blob = self._publisher.publish(worker.version_to_begin, lambda path: save(tensors, path))

    def resume(self) -> None:
        """Nothing was paused."""

    def destroy(self) -> None:
        """Ends serving. The files stay."""
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
