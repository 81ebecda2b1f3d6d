"""The hub as a person with internet meets it: the real client, in a process of its own, against a hub on 127.0.0.1."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import tiny
from loopback_hub import TOKEN, LoopbackHub

from prune_core.runs.run import Run
from prune_core.tasks import hub_errors
from prune_core.tasks.hub_transfer import Bar

LOCATE = """
import json, sys
from prune_core import InputError
from prune_core.models.checkpoints import locate
try:
    at = locate(*sys.argv[1:])
    print(json.dumps({"folder": str(at.folder), "commit": at.commit, "note": at.note}))
except InputError as error:
    print(json.dumps({"refused": str(error)}))
"""
LOAD = """
import json, sys
from prune_core.tasks import glue
for task in sys.argv[1:]:
    data = glue.load(task)
print(json.dumps({"source": data.source, "note": data.note, "train": len(data.train), "dev": list(data.dev)}))
"""
MODEL, DATA = "me/tiny", "nyu-mll/glue"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tiny_model) -> dict[str, bytes]:
    """A model's repository, with other frameworks' weights beside."""
    read = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    return read | {"README.md": b"# tiny", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx",
                   "fp16/model.safetensors": b"half", "tf_model.h5": b"keras"}


@pytest.fixture(scope="module")
def task_files(tmp_path_factory) -> Path:
    return tiny.data_folder(tmp_path_factory.mktemp("glue"), ("sst2", "mnli"))


@pytest.fixture
def hub(files, task_files):
    with LoopbackHub() as made:
        made.add(f"models/{MODEL}", files)
        made.add(f"datasets/{DATA}", task_files)
        yield made


def call(hub: LoopbackHub, home: Path, code: str, *arguments: str, **more: str) -> tuple[dict, str]:
    """What the code prints, and what stands on stderr; `asked` then holds its requests only."""
    hub.asked.clear()
    done = hub.python(home, "-c", code, *arguments, **more)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def located(hub: LoopbackHub, home: Path, *arguments: str, **more: str) -> dict:
    return call(hub, home, LOCATE, *(arguments or (MODEL,)), **more)[0]


def refused(hub: LoopbackHub, home: Path, *arguments: str, **more: str) -> str:
    said, err = call(hub, home, LOCATE, *(arguments or (MODEL,)), **more)
    message = said["refused"]
    assert "Traceback" not in err and "\n" not in message and len(message) < 400 and "Traceback" not in message
    return message


def weights_asked(hub: LoopbackHub) -> int:
    return sum(one.startswith("GET") and ".safetensors" in one for one in hub.asked)


def test_the_server_speaks_to_the_plain_client_too(hub, tmp_path):
    """What this file goes by is independent of how Prunescope asks."""
    code = """
import json, datasets, huggingface_hub
folder = huggingface_hub.snapshot_download("me/tiny", revision="main")
rows = datasets.load_dataset("nyu-mll/glue", "sst2")["train"].num_rows
print(json.dumps([sorted(p.name for p in __import__("pathlib").Path(folder).iterdir()), rows]))
"""
    names, rows = call(hub, tmp_path, code)[0]
    assert {"config.json", WEIGHTS, "pytorch_model.bin", "onnx"} <= set(names) and rows == 64


# ---------------------------------------------------------------- models


def test_a_first_download_follows_redirects_shows_progress_and_is_kept(hub, files, tmp_path):
    said, err = call(hub, tmp_path, LOCATE, MODEL)
    folder = Path(said["folder"])
    assert {path.name for path in folder.iterdir()} == {"config.json", WEIGHTS, "tokenizer.json",
                                                       "tokenizer_config.json"}
    assert (folder / WEIGHTS).read_bytes() == files[WEIGHTS] and said["commit"] == folder.name
    assert f"downloading {MODEL}: {WEIGHTS} 100%" in err and " left" in err
    again, err = call(hub, tmp_path, LOCATE, MODEL)
    assert again == said and err == "" and len(hub.asked) == 2


def test_sharded_weights_come_with_their_index(hub, files, tmp_path):
    shards = {f"model-0000{number}-of-00002.safetensors": b"weights" for number in (1, 2)}
    index = json.dumps({"weight_map": {shard[:11]: shard for shard in shards}}).encode()
    hub.add("models/me/shards", {"config.json": files["config.json"], f"{WEIGHTS}.index.json": index} | shards)
    folder = Path(located(hub, tmp_path, "me/shards")["folder"])
    assert len(list(folder.glob("model-*"))) == 2 and (folder / f"{WEIGHTS}.index.json").exists()


def test_a_gated_model_says_where_its_terms_are(hub, tmp_path):
    hub.repositories[f"models/{MODEL}"].gated = True
    message = refused(hub, tmp_path)
    assert all(part in message for part in ("gated", f"{hub.address}/{MODEL}", "hf auth login"))
    assert "refuses the token" in refused(hub, tmp_path, HF_TOKEN="hf_old")
    assert located(hub, tmp_path, HF_TOKEN=TOKEN)["commit"]


def test_a_model_that_goes_by_another_name_now(hub, tmp_path):
    """As bert-base-uncased does."""
    hub.renamed["tiny-uncased"] = MODEL
    assert located(hub, tmp_path, "tiny-uncased")["commit"] == hub.repositories[f"models/{MODEL}"].refs["main"]


@pytest.mark.parametrize("name, revision, words", [
    ("me/none", "", ("no such repository", "private", "/me/none")),
    (MODEL, "v9", ("no revision 'v9'", f"/{MODEL}")),
    (MODEL, "../x", ("no name of a branch",)),
    ("minilm", "main", ("for a hub name", "embedded")),
    ("tests", "main", ("for a hub name", "a folder")),
])
def test_a_name_or_a_revision_that_is_not_there(hub, tmp_path, name, revision, words):
    message = refused(hub, tmp_path, name, *filter(None, [revision]))
    assert all(part in message for part in words) and not weights_asked(hub)


@pytest.mark.parametrize("change, words", [
    ({WEIGHTS: None}, ("pytorch_model.bin is a pickle", "save it as safetensors")),
    ({"config.json": None}, ("config.json is missing",)),
    ({"config.json": None, "adapter_config.json": b"{}"}, ("an adapter",)),
    ({WEIGHTS: None, "pytorch_model.bin": None}, (f"{WEIGHTS} is missing",)),
])
def test_a_repository_that_holds_no_checkpoint_is_refused_before_anything_is_downloaded(hub, files, tmp_path, change,
                                                                                       words):
    hub.add("models/me/odd", {name: content for name, content in (files | change).items() if content is not None})
    message = refused(hub, tmp_path, "me/odd")
    assert all(part in message for part in ("'me/odd'", *words)) and len(hub.asked) == 2
    if "pickle" in message:
        assert "--revision refs/pr/" in message
        hub.add("models/me/odd", files, "refs/pr/1")
        assert located(hub, tmp_path, "me/odd", "refs/pr/1")["commit"]


def test_a_hub_that_was_asked_too_often_says_for_how_long(hub, tmp_path):
    hub.status, hub.retry_after = 429, 300
    before = time.monotonic()
    message = refused(hub, tmp_path)
    assert "too often" in message and "300 s" in message
    assert len(hub.asked) <= 4 and time.monotonic() - before < 20


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_with_errors_of_its_own(hub, tmp_path, status):
    hub.status = status
    message = refused(hub, tmp_path)
    assert f"error of its own ({status})" in message and "later" in message and len(hub.asked) <= 4


@pytest.mark.parametrize("status, wait", [(503, None), (429, 1)])
def test_an_error_that_passes_is_not_told(hub, tmp_path, status, wait):
    hub.status, hub.retry_after, hub.failures = status, wait, 2
    assert located(hub, tmp_path)["commit"]


@pytest.mark.parametrize("where", ["/cdn/", "/api/models"])
def test_a_hub_that_sends_nothing_is_given_up(hub, tmp_path, where):
    hub.stalls = where
    before = time.monotonic()
    message = refused(hub, tmp_path)
    assert "slow" in message and time.monotonic() - before < 30


def test_a_download_that_broke_off_is_told_and_the_next_try_goes_on(hub, files, tmp_path):
    hub.cut = 1000
    message = refused(hub, tmp_path)
    assert "broke off" in message and "kept" in message and "pickle" not in message
    hub.cut = None
    assert (Path(located(hub, tmp_path)["folder"]) / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert not any("config.json" in one for one in hub.asked) and weights_asked(hub) == 1


def test_a_line_that_breaks_once_is_taken_up_where_it_broke(hub, files, tmp_path):
    hub.add("models/me/large", files | {WEIGHTS: bytes(range(256)) * 16384})
    hub.cut, hub.cuts = 3 << 20, 1
    folder = Path(located(hub, tmp_path, "me/large")["folder"])
    assert (folder / WEIGHTS).read_bytes() == bytes(range(256)) * 16384
    assert any("bytes=" in one and "bytes=0-" not in one for one in hub.asked)


def test_a_hub_that_is_gone_later(hub, tmp_path):
    """From the cache, said, at once; a hub that answers and then fails likewise; what is not there is not invented."""
    commit = located(hub, tmp_path)["commit"]
    hub.status = 500
    said, err = call(hub, tmp_path, LOCATE, MODEL)
    assert said["commit"] == commit and "copy in the cache is used" in said["note"] and said["note"] in err
    assert len(hub.asked) <= 2
    hub.close()
    before = time.monotonic()
    said, err = call(hub, tmp_path, LOCATE, MODEL)
    assert said["commit"] == commit and "did not answer" in said["note"] and said["note"] in err
    assert time.monotonic() - before < 15
    assert "did not answer" in refused(hub, tmp_path, "me/other")
    assert call(hub, tmp_path, LOCATE, MODEL, HF_HUB_OFFLINE="1")[1] == ""  # who has said so needs not be told
    assert "HF_HUB_OFFLINE" in refused(hub, tmp_path, "me/other", HF_HUB_OFFLINE="1")


def test_a_branch_that_moves_and_a_commit_that_does_not(hub, files, tmp_path):
    old = located(hub, tmp_path)["commit"]
    new = hub.add(f"models/{MODEL}", files | {"config.json": files["config.json"] + b" "}, "main", "v2")
    assert located(hub, tmp_path)["commit"] == new != old
    assert located(hub, tmp_path, MODEL, "v2")["commit"] == new
    assert located(hub, tmp_path, MODEL, old)["commit"] == old and hub.asked == []


def test_stopping_a_download_leaves_no_half_file(hub, files, tmp_path):
    hub.add("models/me/large", files | {WEIGHTS: bytes(8 << 20)})
    hub.rate = 1 << 20
    with subprocess.Popen([sys.executable, "-m", "prune_core", "prune", "--model", "me/large", "--data", "practice",
                           "--run", "x", "--runs-dir", str(tmp_path / "runs")], env=hub.environment(tmp_path / "home"),
                          stderr=subprocess.PIPE, text=True, cwd=tiny.files.PROJECT) as process:
        said = ""
        while f"{WEIGHTS}" not in said or "0%" in said.split(WEIGHTS)[-1]:
            said += process.stderr.read(1)
        process.send_signal(signal.SIGTERM)
        said += process.stderr.read()
        assert process.wait(60) == 130 and said.splitlines()[-1] == "error: interrupted"
    assert not list(tmp_path.rglob("*.incomplete")) and not (tmp_path / "runs" / "x").exists()


# ---------------------------------------------------------------- data


def test_a_data_set_comes_in_parts_and_is_asked_for_at_once_when_the_hub_is_gone(hub, tmp_path):
    def loaded(*tasks: str) -> dict:
        return call(hub, tmp_path, LOAD, *tasks)[0]

    first = loaded("mnli")
    assert (first["source"], first["note"], first["train"]) == (DATA, "", 64)
    assert first["dev"] == ["validation_matched", "validation_mismatched"]
    assert not any("sst2" in one for one in hub.asked)
    assert loaded("mnli") == first and len(hub.asked) == 2
    hub.status = 500
    said = loaded("mnli")
    assert said == first | {"note": said["note"]} and "error of its own (500)" in said["note"]
    assert len(hub.asked) <= 2
    assert "not nyu-mll/glue sst2" in loaded("mnli", "sst2")["note"] and len(hub.asked) <= 2  # not asked again
    hub.close()
    before = time.monotonic()
    assert loaded("mnli")["note"].startswith(f"data '{DATA}': the hub did not answer")
    assert time.monotonic() - before < 15


def test_what_datasets_kept_by_itself_is_used_too(hub, tmp_path):
    """As before there was a way around it: then the hub's files are not in the cache, but what was made of them is."""
    made = call(hub, tmp_path, "import datasets; datasets.load_dataset('nyu-mll/glue', 'sst2'); print(1)")[0]
    shutil.rmtree(tmp_path / "hub")
    hub.close()
    said = call(hub, tmp_path, LOAD, "sst2")[0]
    assert made and (said["source"], said["train"]) == (DATA, 64) and "`datasets` kept" in said["note"]


# ---------------------------------------------------------------- whole runs


def test_a_run_from_the_hub_stays_with_its_commit_and_goes_on_without_the_hub(hub, files, tmp_path):
    def prune(*more: str) -> str:
        few = "--preset quick --dense-steps 2 --penalty-steps 2 --retrain-steps 1 --threads 1 --precision fp32".split()
        done = hub.python(tmp_path / "home", "-m", "prune_core", "prune", "--task", "sst2", "--model", MODEL, *few,
                          "--block", "16x1", "--runs-dir", str(tmp_path / "runs"), *more)
        assert done.returncode == 0, done.stderr
        return done.stderr

    err = prune("--revision", "main", "--run", "one")
    assert f"downloading {MODEL}" in err and f"downloading {DATA}" in err
    one = Run(tmp_path / "runs" / "one")
    commit = hub.repositories[f"models/{MODEL}"].refs["main"]
    assert (one.about["commit"], one.config.revision, one.data, one.about["notes"]) == (commit, "main", DATA, [])

    hub.add(f"models/{MODEL}", {"README.md": b"moved"})
    hub.close()
    err = prune("--from", "one", "--run", "two")
    two = Run(tmp_path / "runs" / "two")
    assert two.about["commit"] == commit and two.dense_score == one.dense_score
    assert len(two.about["notes"]) == 1 and f"data '{DATA}'" in two.about["notes"][0]
    assert err.startswith(two.about["notes"][0])


@pytest.mark.parametrize("error, words", [
    (OSError(errno.ENOSPC, "No space left"), ("disk", "full", "HF_HOME")),
    (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), ("/cache/x", "cannot be written", "HF_HOME")),
    (httpx2.ProxyError("407 Proxy Authentication Required"), ("proxy", "407", "HTTPS_PROXY")),
    (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), ("no safe connection", "SSL_CERT_FILE")),
    (json.JSONDecodeError("Expecting value", "<html>", 0), ("does not speak the hub's protocol", "HF_ENDPOINT")),
    (RuntimeError("xet: chunk lost"), ("broke off", "HF_HUB_DISABLE_XET")),
], ids=lambda value: type(value).__name__)
def test_causes_outside_the_hub_are_named(error, words):
    """As they come: wrapped in what huggingface_hub raises."""
    wrapped = OSError("it did not work")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        said = hub_errors.cause(one, "the hub")
        assert all(part in said for part in words), said


def test_the_bar_serves_large_files_too(capsys):
    """Those come by another way, which reports by itself what was received and what was written."""
    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    with Bar("a/b", {"large": 100}) as bar:
        asked = {"reconstruction_desc": "", "total": 100, "log_level": 30, "tqdm_class": bar.of("large")}
        with XetDownloadProgressReporter(**asked) as reporter:
            for share in (40, 100):
                reporter.update_progress(SimpleNamespace(
                    total_bytes=100, total_bytes_completed=share, total_bytes_completion_rate=1.0,
                    total_transfer_bytes_completed=share // 2, total_transfer_bytes_completion_rate=1.0))
    assert "downloading a/b: large 100%" in capsys.readouterr().err
