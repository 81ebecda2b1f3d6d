"""Joining a Ray cluster: an address that answers, nodes that have room and see what cells need; else one clear line."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prune_core import InputError, __version__
from prune_core.runs.places import one_line
from prune_core.runs.storage import Storage
from prune_core.runs.sweeps import Sweep, folder_of
from prune_core.training.cell import How

ANSWER = 10.0  # seconds that an address has to answer in
JOINING = 60.0  # seconds, after its answer, until this process has joined, or a node has said what it sees
TRIES = 3  # to join, where Ray's own server for this process does not start
THREADS = 2  # of a cell, where nothing is said


def ray_itself():
    """The module. Raises InputError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise InputError("--on ray needs Ray, which is not installed; install it with: "
                         "pip install -r requirements-ray.txt") from None
    return ray


# ---------------------------------------------------------------- joining


def join(ray, on: str) -> None:
    """Connect this process. Raises InputError where the address does not answer, or will not have it."""
    shared = {"ignore_reinit_error": True, "log_to_driver": False, "logging_level": "ERROR"}
    address = on if on != "ray" else os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):
        try:
            _in_time(lambda: ray.init(address="auto", **shared), "this machine's Ray cluster", JOINING)
        except InputError as error:
            if address == "auto" or "Could not find any running Ray instance" not in str(error):
                raise
            print("no Ray cluster runs on this machine: one is started for this sweep", file=sys.stderr, flush=True)
            _in_time(lambda: ray.init(include_dashboard=False, **shared), "a Ray cluster of this machine", 2 * JOINING)
        return
    _answers(address)
    for left in reversed(range(TRIES)):
        try:
            return _in_time(lambda: ray.init(address=address, **shared), f"the Ray cluster at {address}", JOINING)
        except InputError as error:  # a server there sometimes fails to fork one for this client; the next one comes up
            if not left or "client server failed" not in str(error):
                raise
            time.sleep(1.0)


def _answers(address: str) -> None:
    """Raises InputError where nothing answers there within ANSWER seconds; for ray:// it must speak as Ray does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    refused = f"{address} does not answer within {ANSWER:.0f} s"
    needed = "needed: ray://HOST:10001, where `ray start --head` runs" if address.startswith("ray://") else (
        "needed: RAY_ADDRESS=HOST:6379, where `ray start --head` runs")
    if not host or not port.isdigit():
        raise InputError(f"Ray's address {address[:80]!r} is none; {needed}")
    end = time.monotonic() + ANSWER
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"{refused}: {one_line(error)}; {needed}") from None
    if address.startswith("ray://"):
        try:
            import grpc
        except ImportError:
            raise InputError("ray:// needs Ray's client, which is not installed; install it with: "
                             "pip install -r requirements-ray.txt") from None
        channel = grpc.insecure_channel(f"{host}:{port}")
        try:
            grpc.channel_ready_future(channel).result(timeout=max(0.1, end - time.monotonic()))
        except grpc.FutureTimeoutError:
            raise InputError(f"{refused}: something is there, but it does not speak as Ray's client server does; "
                             f"{needed}") from None
        finally:
            channel.close()


def _in_time(call: Callable[[], object], what: str, seconds: float) -> None:
    """Call it in a thread, as it may wait for ever. Raises InputError where it fails or takes longer."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise InputError(f"{what} lets nobody join within {seconds:.0f} s; see `ray status` there")
    if failed:
        said = [line for line in str(failed[0]).splitlines() if line.strip()][-1:]  # a server sends its whole traceback
        raise InputError(f"{what} cannot be joined: {one_line(ValueError(*said) if said else failed[0])}")


def fitting(how: How, nodes: list[dict]) -> How:
    """With the threads of each cell. Raises InputError where no node has room for one cell."""
    sizes = [(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in nodes]
    gpus = how.gpus if how.gpus is not None else 0 if how.device == "cpu" else min(1, max(gpus for _, gpus in sizes))
    how = replace(how, gpus=gpus)
    threads = how.threads or max(1, min(THREADS, max((cpus for cpus, _ in sizes), default=1)))
    if not any(cpus >= threads and gpus >= how.gpus for cpus, gpus in sizes):
        largest = " and ".join(f"{cpus} CPUs and {gpus} GPUs" for cpus, gpus in sorted(set(sizes))[-3:]) or "none"
        raise InputError(f"a cell takes {threads} CPUs and {how.gpus} GPUs, which no node of the cluster has "
                         f"(there are: {largest}); needed: fewer --threads or --gpus")
    return replace(how, threads=threads, gives_way=False)


# ---------------------------------------------------------------- what every node must see


def check_nodes(ray, nodes: list[dict], runs_dir: Path, storage: Storage | None, sweep: Sweep) -> None:
    """Ask every node whether it has this version, the storage, and the models and data. Raises InputError."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = folder_of(runs_dir) / f".probe-{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()
    paths = {getattr(cell.config, name) for cell in sweep.cells for name in ("model", "data")}
    paths = sorted(path for path in paths if os.path.isabs(path) and os.path.exists(path))
    if storage:
        storage.probe()
    else:
        paths.insert(0, str(probe))
    seeing, place = ray.remote(num_cpus=0, max_retries=0)(_seeing()), NodeAffinitySchedulingStrategy
    try:
        asked = {node["NodeID"]: seeing.options(scheduling_strategy=place(node["NodeID"], soft=False)).remote(
            paths, how_storage := storage.address if storage else "") for node in nodes}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=JOINING)
        for node in nodes:
            where = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            try:
                told = ray.get(asked[node["NodeID"]], timeout=0.1)
            except Exception as error:
                raise InputError(f"{where} does not say what it sees: {one_line(error)}") from None
            _judge(where, told, str(probe), runs_dir, how_storage)
    finally:
        probe.unlink(missing_ok=True)


def _judge(where: str, told: dict, probe: str, runs_dir: Path, storage: str) -> None:
    """Raises InputError for what a node lacks."""
    if told["version"] != __version__:
        raise InputError(f"{where} has Prunescope {told['version'] or 'not'}{' installed' * (not told['version'])}; "
                         f"needed: {__version__}, in the Python that its Ray runs in")
    if storage and told["storage"]:
        raise InputError(f"{where} cannot use storage {storage!r}: {told['storage']}")
    for path in told["missing"]:
        if path == probe:
            raise InputError(f"{where} does not see the runs folder {str(runs_dir)!r}; needed: one that all nodes see, "
                             "for example on NFS, by --runs-dir, or an fsspec address, by --storage")
        raise InputError(f"{where} does not see {path!r}, which cells read; needed: the same path on every node")


def _seeing() -> Callable[[list[str], str], dict]:
    """What a node is asked. It goes there by value, so that it also answers where Prunescope is not installed."""
    def seeing(paths: list[str], storage: str) -> dict:
        import os

        told = {"version": "", "storage": "", "missing": [path for path in paths if not os.path.exists(path)]}
        try:
            from prune_core import __version__ as version

            told["version"] = version
            if storage:
                from prune_core.runs.storage import Storage

                told["storage"] = "" if Storage(storage).sees_probe() else "what was left there is not seen"
        except ImportError:
            pass
        except Exception as error:
            told["storage"] = " ".join(str(error).split())
        return told

    return seeing
