"""Whether training fits in memory, told before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from sparse_rep.errors import ConfigError
from sparse_rep.saes.training.bank import Member
from sparse_rep.saes.training.grouping import bank_class, grouped


def available_bytes(device: torch.device) -> int:
    """Free memory of the device, or of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # counts what caches would give back
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_room(
    members: Mapping[str, Member], device: torch.device, batch_tokens: int, available: int | None = None
) -> None:
    """Raises ConfigError that names the members for which there is no room, counted in the order given."""
    free = available_bytes(device) if available is None else available
    needed, left_out = 0, []
    for group in grouped(members, device):
        whole = bank_class(group, device).bytes_needed(group, batch_tokens)
        for name in group:
            needed += whole // len(group)
            if needed > free:
                left_out.append(name)
    if left_out:
        raise ConfigError(
            f"training needs about {needed / 2**30:.1f} GiB on {device} and {free / 2**30:.1f} GiB are free: no room for "
            f"{', '.join(left_out)}; train fewer at once, narrower ones, or with a smaller batch_tokens"
        )
