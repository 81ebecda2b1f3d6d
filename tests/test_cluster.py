"""A sweep on a real Ray cluster of two nodes: workers killed, a node removed; the table is that of a local sweep."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sweeping
from browsing import wait
from sweeping import CELLS, NODE

from prune_core import InputError
from prune_core.runs import sweeps
from prune_core.runs.standing import standings
from prune_core.training import joining, sweep

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model, tiny_data) -> dict:
    """What a local sweep that nothing happens to prints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return sweeping.done(folder, *sweeping.asked(tiny_model, tiny_data), "--at-a-time=2", "--threads=1")


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster, its two nodes, and the port of its client server."""
    port = free_port()
    with sweeping.cluster(ray_client_server_port=port) as made:
        yield made, [made.add_node(**NODE), made.add_node(**NODE)], port


# ---------------------------------------------------------------- addresses and nodes that will not do


def refused(on: str, **environment: str) -> str:
    """The one line that such a sweep ends with."""
    begun = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as error:
        for name, value in environment.items():
            patch.setenv(name, value)
        joining.join(joining.ray_itself(), on)
    assert "\n" not in str(error.value) and time.monotonic() - begun < joining.ANSWER + 3
    return str(error.value)


def test_an_address_where_nothing_answers_is_refused_within_ten_seconds():
    port = free_port()
    assert f"ray://127.0.0.1:{port} does not answer within 10 s" in refused(f"ray://127.0.0.1:{port}")
    assert "does not answer within 10 s" in refused("ray", RAY_ADDRESS=f"127.0.0.1:{port}")
    assert "needed: ray://HOST:10001" in refused("ray://nonsense")


def test_something_that_does_not_speak_as_ray_does_is_refused_within_ten_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "does not speak as Ray" in refused(f"ray://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("failures", [2, 3])
def test_a_server_that_does_not_start_at_once_is_asked_again(monkeypatch, failures):
    """Ray forks one for each client, which fails now and then where it is busy; it sends its whole traceback."""
    tried = []

    def init(**given) -> None:
        tried.append(given["address"])
        if len(tried) <= failures:
            raise ConnectionAbortedError("Initialization failure from server:\nTraceback (most recent call last):\n"
                                         "RuntimeError: Starting Ray client server failed. See x.err")

    with socket.create_server(("127.0.0.1", 0)) as there:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{there.getsockname()[1]}")
        if failures < joining.TRIES:
            joining.join(SimpleNamespace(init=init), "ray")
        else:
            with pytest.raises(InputError, match="cannot be joined: RuntimeError: Starting Ray client server failed"):
                joining.join(SimpleNamespace(init=init), "ray")
    assert len(tried) == joining.TRIES


def test_without_ray_it_says_what_to_install(tiny_model, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    asked = sweeps.grid("one", {"seed": [0]}, model=str(tiny_model), data=str(tiny_data))
    with pytest.raises(InputError, match="pip install -r requirements-ray.txt"):
        sweep.run(asked, tmp_path, on="ray")


def test_a_node_that_does_not_see_the_storage_is_refused(two_nodes, tiny_model, tiny_data, tmp_path):
    """One whose file system is another one: there an empty disk lies over the runs folder."""
    made, *_ = two_nodes
    command = f"mount -t tmpfs tmpfs {tmp_path} && exec {sys.executable} -m ray.scripts.scripts start " \
              f"--address={made.address} --num-cpus=1 --object-store-memory=80000000 --block"
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not have a file system of its own (unshare)")
    import ray

    ray.init(address=made.address, logging_level="ERROR")
    blind = subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    try:
        wait("the third node", lambda: sum(node["Alive"] for node in ray.nodes()) == 4, 120)
        asked = sweeps.grid("one", {"seed": [0]}, model=str(tiny_model), data=str(tiny_data))
        with pytest.raises(InputError, match="node .* does not see the runs folder .*--storage") as error:
            sweep.run(asked, tmp_path, on="ray", threads=1)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match="a cell takes 64 CPUs and 0 GPUs, which no node .* has"):
            sweep.run(asked, tmp_path, on="ray", threads=64)
        assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    finally:
        blind.terminate()
        blind.wait(60)
        wait("it has left", lambda: sum(node["Alive"] for node in ray.nodes()) == 3, 120)
        ray.shutdown()


# ---------------------------------------------------------------- cells


def test_stopped_then_a_worker_killed_and_a_node_removed(two_nodes, undisturbed, tiny_model, tiny_data, tmp_path):
    made, (_, second), _ = two_nodes
    address = {"RAY_ADDRESS": made.address}
    begun = sweeping.start(tmp_path, *sweeping.asked(tiny_model, tiny_data), "--on=ray", "--threads=1", **address)
    sweeping.in_the_middle(tmp_path)
    begun.send_signal(signal.SIGINT)
    code, _, err = sweeping.ended(begun)
    assert code == 130 and "go on with: python -m prune_core sweep --name sweep" in err
    assert {one.state for one in standings(CELLS, tmp_path)} == {"interrupted", "waiting"}

    begun = sweeping.start(tmp_path, "--name=sweep", "--threads=1", **address)  # on the cluster, as it was begun
    victim = sweeping.in_the_middle(tmp_path)
    worker, training = sweeping.worker_of(victim, tmp_path), sweeping.process_of(victim, tmp_path)
    assert "ray" in " ".join(worker.cmdline())
    sweeping.kill(worker)
    wait("its training has ended with it", lambda: not training.is_running() or training.status() == "zombie", 30)
    sweeping.in_the_middle(tmp_path)
    made.remove_node(second, allow_graceful=False)
    code, told, err = sweeping.ended(begun)
    assert code == 0, err[-2000:]
    assert sweeping.table(told) == sweeping.table(undisturbed)
    assert [cell["status"] for cell in told["cells"]] == ["complete"] * 3 and told["seconds"] > 0


def test_by_a_client_and_with_an_fsspec_storage(two_nodes, undisturbed, tiny_model, tiny_data, tmp_path):
    """Nodes then work in folders of their own; here is what came of it, and in the storage."""
    _, _, port = two_nodes
    storage = tmp_path / "storage"
    given = [*sweeping.asked(tiny_model, tiny_data, ["magnitude"]), f"--on=ray://127.0.0.1:{port}", "--threads=1",
             f"--storage=file://{storage}"]
    told = sweeping.done(tmp_path / "runs", *given)
    (mine,) = sweeping.table(told)
    assert mine in sweeping.table(undisturbed)
    for folder in (storage, tmp_path / "runs"):
        assert (folder / CELLS[1] / "result.json").exists() and not (folder / CELLS[1] / "lock").exists()
    again = sweeping.done(tmp_path / "elsewhere", *given)  # nothing is run again: it is brought from the storage
    assert sweeping.table(again) == [mine]
    ended = [(folder / CELLS[1] / "result.json").read_bytes() for folder in (storage, tmp_path / "elsewhere")]
    assert ended[0] == ended[1] and not (tmp_path / "elsewhere" / ".logs").exists()


def test_a_storage_that_cannot_be_used_is_refused(tiny_model, tiny_data, tmp_path):
    from prune_core.runs.storage import Storage

    with pytest.raises(InputError, match="storage 'nosuch://x' cannot be used: .*fsspec") as error:
        Storage("nosuch://x")
    assert "\n" not in str(error.value)


def test_the_storage_keeps_what_can_be_resumed(tiny_model, tiny_data, tmp_path):
    """A folder sent while its run is in the middle is fetched elsewhere, and resumed to the same end."""
    import tiny

    from prune_core.runs.run import Run
    from prune_core.runs.storage import Storage
    from prune_core.training import session

    config = tiny.settings(tiny_model, tiny_data, compressions=(2.0,))
    whole, storage = tiny.make_run(config, tmp_path / "whole"), Storage(f"file://{tmp_path / 'far'}")

    def stop(event, pruning) -> None:
        if event.phase.startswith("retrain"):
            storage.send("tiny", tmp_path / "here")
            raise session.Interrupted("enough")

    with pytest.raises(session.Interrupted):
        session.start(config, tmp_path / "here", "tiny", "command", stop)
    there = Path(tmp_path / "there")
    Storage(f"file://{tmp_path / 'far'}").fetch("tiny", there)
    assert (there / "tiny" / "checkpoint.safetensors").exists() and not (there / "tiny" / "result.json").exists()
    assert session.resume(Run(there / "tiny"), tiny.silent)["points"] == whole.points
    storage.send("tiny", there)
    assert storage.complete("tiny")
