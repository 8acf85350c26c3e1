"""The processes of one run, as `torchrun` starts them: a grid of data ranks x columns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_infer.errors import UsageError

TIMEOUT = timedelta(minutes=10)
"""How long an exchange waits for a rank that doesn't answer, before the run ends.

Longer than a cold `torch.compile` takes: a rank that finds the result in its cache waits for one that doesn't.
"""

PATIENCE = timedelta(hours=2)
"""The same where ranks are known to be at different work. A rank that dies there is noticed by torchrun."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place in the grid.

    Ranks of one `column_group` share the net, and see the same images; ranks of one `data_group` hold the same column,
    and share the images. A run of one process has neither group."""

    data_rank: int = 0
    data_ranks: int = 1
    column: int = 0
    columns: int = 1
    data_group: dist.ProcessGroup | None = None
    column_group: dist.ProcessGroup | None = None
    patient_group: dist.ProcessGroup | None = None
    """All ranks, for what may take one of them much longer than the others: reading images, writing a checkpoint."""

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.data_rank == 0 and self.column == 0

    @property
    def count(self) -> int:
        """Processes in all."""
        return self.data_ranks * self.columns

    def share(self, rows: Tensor) -> Tensor:
        """The part of a batch (a multiple of `data_ranks` rows) that this process works on."""
        return rows.chunk(self.data_ranks)[self.data_rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the data ranks."""
        if self.data_group is not None:
            dist.all_reduce(values, group=self.data_group)
        return values

    def sum_all(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def whole(self, part: Tensor) -> Tensor:
        """A tensor of which each column holds an equal part of the first axis (a scalar is held by all)."""
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
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier(group=self.patient_group)

    def check_same(self, what: dict[str, Any]) -> None:
        """Raises UsageError, on all processes, when they were started with different settings or data."""
        if self.count == 1:
            return
        everybodys: list[dict[str, Any]] = [{}] * self.count
        dist.all_gather_object(everybodys, what, group=self.patient_group)
        for rank, theirs in enumerate(everybodys):
            for key in what:
                if theirs.get(key) != everybodys[0].get(key):
                    raise UsageError(
                        f"rank {rank} has another {key} than rank 0: start all with the same command and data"
                    )


def join(device: torch.device, columns: int, timeout: timedelta = TIMEOUT) -> Ranks:
    """Joins the processes that `torchrun` started; `Ranks()` in a process that was started alone.

    Consecutive ranks are the columns of one net. Raises UsageError when the processes can't form a grid with `columns`
    columns.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count % columns:
        raise UsageError(
            f"--columns: {count} processes can't be grouped in pairs; start the run with "
            f"torchrun --nproc-per-node {columns} -m train ..."
        )
    if count == 1:
        return Ranks()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
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


def _group(members: Tensor, timeout: timedelta) -> dist.ProcessGroup | None:
    """This process's group, of those whose ranks are the rows of `members`; None for a group of one.

    All processes must call it. `DeviceMesh` would give its groups PyTorch's own timeout.
    """
    if members.shape[1] == 1:
        return None
    group, _ = dist.new_subgroups_by_enumeration(members.tolist(), timeout=timeout)
    return group
