"""Batches of a run for any PyTorch loop: a dataset that shards and acknowledges, and ragged arrays as tensors.

    batches = RolloutBatches(url, run="math-7b", config=RunConfig(consumer_batch_size=256), steps=1000)
    for rollouts in batches:                       # this rank's share of a step
        train(collate(rollouts))                   # the step is acknowledged when the next one is asked for

Needs PyTorch, which the base install lacks.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Generator, Iterable, Iterator
from importlib import import_module
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from broker.clients.trainer import Trainer
from broker.connections import open_transport
from broker.errors import BadArgument, Exhausted, NoRun, WaitTimeout
from broker.integrations.tensors import collate, pack, pad, torch
from broker.protocol import keys
from broker.trainer.batches import share_of
from broker.trainer.filter import Accept
from broker.values.config import RunConfig
from broker.values.hooks import check_plain_hook
from broker.values.rollout import Rollout

_log = logging.getLogger(__name__)
_torch_data: Any = import_module("torch.utils.data")

__all__ = ["RolloutBatches", "collate", "pack", "pad"]

if TYPE_CHECKING:
    T = TypeVar("T")

    class _IterableDataset(Generic[T]):
        def __iter__(self) -> Iterator[T]: ...

else:
    _IterableDataset = _torch_data.IterableDataset

#: Pause between two looks whether the run has ended, or exists, seconds.
_LOOK_AGAIN_S = 0.5
#: How long the mark of the end is kept, milliseconds: a day.
_END_KEPT_MS = 86_400_000


class RolloutBatches(_IterableDataset["list[Rollout]"]):
    """The batches of a run, step by step: an `IterableDataset` whose items are this rank's share of a step.

    Rank 0 leads: it is the run's trainer, forms the batches with `next_batch` and acknowledges them with `advance`. The
    other ranks only read. Each reads a contiguous share of every batch; together the ranks read all of it.

    A step is acknowledged when the next step is asked for, or by `advance`, which can send a blob with the new version.
    A loop that is left early has not acknowledged its last step, which then comes again.

    With loader workers, iterate through `over`: these workers read and decode, but cannot form or acknowledge batches.

    Args:
        url: the server.
        run: name of the run.
        config: how the run works, if rank 0 creates it; None: the run exists.
        rank: this rank; None: that of `torch.distributed`, or 0.
        world: number of ranks; None: that of `torch.distributed`, or 1.
        n: rollouts of a step, of all ranks together; None: the config's consumer_batch_size.
        steps: end after this many steps; None: when the run is exhausted.
        step: the first step of a rank other than 0; None: the run's version when the rank begins to iterate.
        accept: a filter, called on rank 0 once for each rollout, as in `Trainer.next_batch`; rollouts that it refuses
            are discarded and replaced.
        short: when fewer than n tasks are left, make a step of all that are left.
        timeout: how long to wait for one batch, in seconds; None: as long as it takes.
    """

    def __init__(
        self,
        url: str,
        run: str,
        config: RunConfig | None = None,
        *,
        rank: int | None = None,
        world: int | None = None,
        n: int | None = None,
        steps: int | None = None,
        step: int | None = None,
        accept: Accept | None = None,
        short: bool = False,
        timeout: float | None = None,
    ) -> None:
        super().__init__()
        check_plain_hook("accept", accept)
        distributed: Any = torch.distributed
        there = bool(distributed.is_available() and distributed.is_initialized())
        self.rank: int = rank if rank is not None else distributed.get_rank() if there else 0
        self.world: int = world if world is not None else distributed.get_world_size() if there else 1
        if not 0 <= self.rank < self.world:
            raise BadArgument(argument="rank", given=self.rank, expected=f"0 <= rank < {self.world}")
        self.url, self.run = url, run
        self._config, self._n, self._accept, self._short, self._timeout = config, n, accept, short, timeout
        self._steps_left, self._step = steps, step
        self._driven = False  # whether loader workers are iterated through `over`
        self._seen_end = ""  # the mark of an earlier end
        self._trainer: Trainer | None = None
        self._opened_by = 0

    @property
    def trainer(self) -> Trainer:
        """The run's trainer on rank 0, for `enqueue`, `recover` and `checkpoint`; on other ranks it only reads.

        Raises:
            NoRun: there is no such run, and no config to create it with (other ranks wait for rank 0 to create it).
        """
        if self._trainer is None or self._opened_by != os.getpid():
            self._trainer = Trainer(self.url, self.run, self._config) if self.rank == 0 else self._attached()
            self._opened_by = os.getpid()
            mark = self._end_mark()
            if mark.partition(" ")[0] != self._trainer.stats().epoch:
                self._seen_end = mark
        return self._trainer

    def _attached(self) -> Trainer:
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                return Trainer(self.url, self.run, attach=True)
            except NoRun:
                if until is not None and time.monotonic() >= until:
                    raise
            time.sleep(_LOOK_AGAIN_S)

    def advance(self, blob: bytes | None = None) -> int:
        """Acknowledges the present step before the next one is asked for. Does nothing on ranks other than 0.

        Args:
            blob: at most 1 MiB that workers get with their next claims, for example where the new weights are.

        Returns:
            The version.
        """
        return self.trainer.advance(blob) if self.rank == 0 else self.trainer.version

    def close(self) -> None:
        """Closes the connections. The run stays as it is."""
        if self._trainer is not None and self._opened_by == os.getpid():
            self._trainer.close()
        self._trainer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """For loader workers that are not forked: all state except connections, which each process opens itself."""
        return {**self.__dict__, "_trainer": None}

    def __iter__(self) -> Iterator[list[Rollout]]:
        info: Any = _torch_data.get_worker_info()
        return self._in_process() if info is None else self._in_loader_worker(int(info.id), int(info.num_workers))

    def over(self, loader: Iterable[Any]) -> Generator[list[Any]]:
        """Iterates a `DataLoader` of this dataset and acknowledges its steps.

        Args:
            loader: made with `batch_size=None`; its `collate_fn` gets each loader worker's share of a step.

        Yields:
            For each step the items of the loader workers, in order: micro-batches of the step.

        Raises:
            BadArgument: the loader is of another dataset, or has other options than these.
        """
        options: Any = loader
        shares: int = options.num_workers
        if options.dataset is not self or options.batch_size is not None or options.persistent_workers:
            raise BadArgument(
                argument="loader",
                given="another kind of loader",
                expected="DataLoader(batches, batch_size=None, persistent_workers=False) of this dataset",
            )
        if shares == 0:
            for item in loader:
                yield [item]
            return
        if self.url == "embedded://":
            raise BadArgument(
                argument="num_workers", given=shares, expected="0 with embedded://, which no other process reaches"
            )
        self._begin()
        self._driven = True
        try:
            items = iter(loader)
            for step in self._numbered():
                if self.rank == 0 and self._formed() is None:
                    return
                parts = list(islice(items, shares))
                if len(parts) < shares:
                    self._seen_end = self._end_mark()
                    return
                yield parts
                self._acknowledge(step)
        finally:
            self._driven = False

    def _in_process(self) -> Generator[list[Rollout]]:
        self._begin()
        for step in self._numbered():
            if self.rank == 0:
                batch = self._formed()
                part = None if batch is None else [batch[i] for i in share_of(len(batch), self.rank, self.world)]
            else:
                part = self._read(self.trainer, step, self.rank, self.world)
            if part is None:
                return
            yield part
            self._acknowledge(step)

    def _in_loader_worker(self, worker: int, workers: int) -> Generator[list[Rollout]]:
        if not self._driven:
            expected = "`for parts in batches.over(loader)`"
            raise BadArgument(argument="loader", given="iterated by itself", expected=expected)
        with Trainer(self.url, self.run, attach=True) as reader:
            for step in self._numbered():
                part = self._read(reader, step, self.rank * workers + worker, self.world * workers)
                if part is None:
                    return
                yield part
                self._step = step + 1

    def _begin(self) -> None:
        """The step to go on at: the leader's is the run's; another rank's is its own, and at first the run's."""
        if self.rank == 0:
            self._step = self.trainer.settle()
        elif self._step is None:
            self._step = self.trainer.stats().version

    def _numbered(self) -> Generator[int]:
        """The steps that are left."""
        assert self._step is not None, "begun"
        left = self._steps_left
        for done in count():
            if left is not None and done >= left:
                return
            yield self._step

    def _acknowledge(self, step: int) -> None:
        if self.rank == 0 and self.trainer.version == step:
            self.trainer.advance()
        self._step = step + 1
        if self._steps_left is not None:
            self._steps_left -= 1

    def _formed(self) -> list[Rollout] | None:
        """The whole batch of the step, on the leader. None when the run is exhausted; the other ranks are told."""
        try:
            return self.trainer.next_batch(self._n, accept=self._accept, timeout=self._timeout, short=self._short)
        except Exhausted as error:
            if error.fields.get("dead") or error.fields.get("freed"):
                _log.warning("the steps of run %s end: %s", self.run, error)
            mark = f"{self.trainer.epoch} {self.trainer.version} {secrets.token_hex(4)}"
            with open_transport(self.url) as transport:
                transport.command("SET", self._end_key, mark, "PX", _END_KEPT_MS)
            return None

    def _read(self, reader: Trainer, step: int, share: int, shares: int) -> list[Rollout] | None:
        """A share of a step that the leader forms; None when the run has ended before it."""
        until = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                return reader.read_batch(step, share, shares, timeout=_LOOK_AGAIN_S)
            except WaitTimeout:
                mark = self._end_mark()
                if mark and mark != self._seen_end and int(mark.split()[1]) <= step:
                    self._seen_end = mark
                    return None
                if until is not None and time.monotonic() >= until:
                    raise

    @property
    def _end_key(self) -> str:
        return keys.key(self.run, "torch:end")

    def _end_mark(self) -> str:
        """The mark that the leader sets when the run is exhausted: epoch, the step without batch, and a random part."""
        with open_transport(self.url) as transport:
            mark: bytes | None = transport.command("GET", self._end_key)
        return mark.decode() if mark else ""
