"""The processes of a run that `torchrun` starts: a grid of data ranks x columns."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_infer.errors import BackendError, StoppedError, UsageError, cause_of, one_line, shown
from alexnet_infer.output import tell
from train.recipe import Recipe

TIMEOUT = timedelta(minutes=10)
"""How long an exchange waits for a rank that does not respond before the run ends.

It is longer than `torch.compile` takes without a cache, because ranks with a cache wait for a rank without one.
"""

PATIENCE = timedelta(hours=2)
"""The same limit while ranks do different work. torchrun notices if a rank dies during that time."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's position in the grid.

    The ranks of a `column_group` hold one column each and process the same images. The ranks of a `data_group` hold the
    same column and split the images. A run with one process has neither group.
    """

    data_rank: int = 0
    data_ranks: int = 1
    column: int = 0
    columns: int = 1
    data_group: dist.ProcessGroup | None = None
    column_group: dist.ProcessGroup | None = None
    patient_group: dist.ProcessGroup | None = None
    """All ranks, for waits while one of them reads images or writes a checkpoint."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.data_rank == 0 and self.column == 0

    @property
    def count(self) -> int:
        """Total number of processes."""
        return self.data_ranks * self.columns

    def steps_per_epoch(self, recipe: Recipe, images: int, accumulate: int) -> int:
        """Return the number of steps for a set of `images`, when a process computes its batches in `accumulate` parts.

        Raises UsageError if the batch can't be shared evenly, or if the set has too few images for the recipe.
        """
        shares = self.data_ranks * accumulate
        if recipe.batch % shares:
            sharing = f"{self.data_ranks} {'processes' if self.columns == 1 else 'pairs of processes'}"
            parts = [f"{sharing} that share a batch"] * (self.data_ranks > 1)
            parts += [f"--accumulate {accumulate}"] * (accumulate > 1)
            raise UsageError(f"--batch {recipe.batch}: expected a multiple of {shares} ({', '.join(parts)})")
        if images < recipe.batch:
            raise UsageError(f"--batch {recipe.batch}: expected at most {images}, the number of training images")
        steps = images // recipe.batch
        if (recipe.steps_per_epoch or 0) > steps:
            raise UsageError(
                f"--steps-per-epoch {recipe.steps_per_epoch}: expected at most {steps}, the number of training batches"
            )
        return recipe.steps_per_epoch or steps

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch, whose length must be a multiple of `data_ranks`."""
        return rows.chunk(self.data_ranks)[self.data_rank]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the data ranks. Changes `values`."""
        if self.data_group is not None:
            dist.all_reduce(values, group=self.data_group)
        return values

    def sum_all(self, values: Tensor) -> Tensor:
        """Return the sum over all processes. Changes `values`."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def whole(self, part: Tensor) -> Tensor:
        """Return the tensor of which each column has an equal part along the first axis. Scalars are not divided."""
        if self.column_group is None or part.ndim == 0:
            return part
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.columns)]
        dist.all_gather(parts, part.contiguous(), group=self.column_group)
        return torch.cat(parts)

    def part(self, whole: Tensor) -> Tensor:
        """Inverse of `whole`."""
        return whole if whole.ndim == 0 else whole.chunk(self.columns)[self.column]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` is true on any process."""
        return bool(self.sum_all(torch.tensor(float(flag), device=device)))

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            dist.barrier(group=self.patient_group)

    def leave(self) -> None:
        """Close the connections to the other processes. Each process calls this after its last exchange.

        With connections open, Gloo's threads are still running when the interpreter exits, which can abort the process.
        """
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Close the connections if the block fails.

        Raises BackendError if the cause is another process, which ended or does not answer.
        """
        try:
            with _losing_ranks():
                yield
        except BaseException:
            with suppress(RuntimeError):
                if self.count > 1 and dist.get_backend() == "gloo":  # NCCL would wait for what is queued on the GPU
                    self.leave()
            raise

    def check_same(self, config: dict[str, Any]) -> None:
        """Raise UsageError on all processes if their settings or data differ."""
        if self.count == 1:
            return
        configs: list[dict[str, Any]] = [{}] * self.count
        with _leaving_on_ctrl_c():  # others may still be reading images
            dist.all_gather_object(configs, config, group=self.patient_group)
        for rank, rank_config in enumerate(configs):
            for key in config:
                if rank_config.get(key) != configs[0].get(key):
                    raise UsageError(
                        f"ranks 0 and {rank} differ in {key}: start all ranks with the same command and data"
                    )


def join(device: torch.device, columns: int, timeout: timedelta = TIMEOUT) -> Ranks:
    """Join the processes that `torchrun` started. Returns `Ranks()` in a process that was started alone.

    Consecutive ranks hold the columns of one net. Raises UsageError if the number of processes is not a multiple of
    `columns` or torchrun's variables are wrong, and BackendError if another process can't be reached.
    """
    count = environment("WORLD_SIZE", 1)
    if count % columns:
        raise UsageError(
            f"--split-columns: the number of processes is {count}: expected a multiple of {columns}; start the run "
            f"with torchrun --nproc-per-node {columns} -m train ..."
        )
    if count == 1:
        return Ranks()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    environment("RANK", 0, count - 1)
    port = environment("MASTER_PORT", 1, 65_535)
    with _losing_ranks(), _leaving_on_ctrl_c():
        _check_address(port)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
        except ValueError as error:
            raise UsageError(
                f"{one_line(error)}; start the run with torchrun --nproc-per-node N -m train ..."
            ) from None
        except dist.DistNetworkError as error:
            if "failed to listen" not in str(error):
                raise
            cause = "is in use" if "EADDRINUSE" in str(error) else f"can't be listened on ({_cause(str(error))})"
            raise UsageError(f"MASTER_PORT={port}: {cause}: expected a free port; choose another MASTER_PORT") from None
        grid = torch.arange(count).view(-1, columns)
        row, column = divmod(dist.get_rank(), columns)
        return Ranks(
            data_rank=row,
            data_ranks=len(grid),
            column=column,
            columns=columns,
            patient_group=dist.new_group(backend="gloo", timeout=PATIENCE),
            data_group=_group(grid.T, timeout),
            column_group=_group(grid, timeout),
        )


def environment(name: str, least: int, most: int = 999_999) -> int:
    """Return a number that torchrun sets for each process, or `least` without torchrun. Raises UsageError if wrong."""
    text = os.environ.get(name, str(least))
    if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
        raise UsageError(f"{name}={shown(text)}: expected a number from {least} to {most}, as torchrun sets it")
    return int(text)


def _check_address(port: int) -> None:
    """Raise UsageError unless MASTER_ADDR has an address. PyTorch would wait for it to get one."""
    name = os.environ.get("MASTER_ADDR", "localhost")
    try:
        socket.getaddrinfo(name, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: it is too long or empty
        cause = cause_of(error)
        raise UsageError(
            f"MASTER_ADDR={shown(name)}: has no address ({cause}): expected the name or address of rank 0's machine"
        ) from None


@contextmanager
def _losing_ranks() -> Iterator[None]:
    """Raise PyTorch's errors about other processes as BackendError. Those of Gloo are plain RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise BackendError(
            f"another process of the run ended or did not answer ({_cause(str(error))}); see its message, then run the "
            "same command again to resume from the last checkpoint"
        ) from None


@contextmanager
def _leaving_on_ctrl_c() -> Iterator[None]:
    """End the process at once on Ctrl-C, unless it ignores Ctrl-C because it was started in the background.

    While PyTorch waits for other processes, for up to `TIMEOUT` or `PATIENCE`, a KeyboardInterrupt comes too late or
    aborts it.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler in (signal.SIG_IGN, None):  # None: not Python's
        yield
        return
    ends = os.pipe()
    os.set_blocking(ends[1], False)

    def watch() -> None:
        if os.read(ends[0], 1):
            tell("interrupted: run the same command again")
            os._exit(StoppedError.exit_code)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    previous = signal.set_wakeup_fd(ends[1])
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(previous)
        os.close(ends[1])
        watcher.join()
        os.close(ends[0])


def _cause(message: str) -> str:
    """Return the first sentence of a message of PyTorch, without the place in its source."""
    return one_line(re.sub(r"^\[[^]]*\] ", "", message).partition(". ")[0])[:200]


def _group(members: Tensor, timeout: timedelta) -> dist.ProcessGroup | None:
    """Return this process's group; each row of `members` has the ranks of a group. None for a group of one.

    All processes must call this. `DeviceMesh` can't be used, because its groups have PyTorch's default timeout.
    """
    if members.shape[1] == 1:
        return None
    group, _ = dist.new_subgroups_by_enumeration(members.tolist(), timeout=timeout)
    return group
