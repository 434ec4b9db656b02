"""Runs a function in several processes that form one gloo group, and gives back what each returned."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from sparse_rep.saes.ranks import Ranks, together


def _child(rank: int, world: int, port: int, work: Callable[..., Any], args: tuple[Any, ...], results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        with together(Ranks(rank, world)):
            results.put((rank, pickle.dumps(work(*args))))  # by value: the child is gone when it is read
    except Exception:
        results.put((rank, AssertionError(traceback.format_exc())))
    dist.destroy_process_group()


def in_processes(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Results by rank. `work` must be importable by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    children = [context.Process(target=_child, args=(rank, world, port, work, args, results)) for rank in range(world)]
    for child in children:
        child.start()
    found = dict(results.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    for result in found.values():
        if isinstance(result, AssertionError):
            raise result
    return [pickle.loads(found[rank]) for rank in range(world)]
