"""The commands for a class: what is handed out, and the app with the lesson alone."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prune_core import InputError, files
from prune_core.cli.options import AsJson
from prune_core.cli.tell import tell
from prune_core.runs import places, shelf
from prune_core.tasks.hub import say

SPARSITIES = tuple(round(0.1 * tenth, 1) for tenth in range(10))


def handout(
    out: Annotated[Path, Argument(help="A new file: .html, or .pdf where Chromium or Chrome is on this machine.")],
    teacher: Annotated[bool, Option("--teacher", help="The teacher's sheet: a plan for 45 minutes, every answer, what "
                                                      "students ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the lesson's handout, two pages of A4 with the pictures and the exercises; or the teacher's sheet."""
    from prune_core.showing import exercises
    from prune_core.showing import handout as sheets
    from prune_core.showing.handout import paper

    ending = out.suffix.lower()
    if ending not in (".html", ".pdf"):
        raise InputError(f"{str(out)!r} ends in {ending or 'nothing'!r}; needed: a name that ends in .html or .pdf")
    if out.exists():
        raise InputError(f"{str(out)!r} is there already; needed: a new file")
    if ending == ".pdf" and paper.browser() is None:
        paper.pdf("")  # says so before the work
    known = exercises.Known(exercises.recorded(), _sentences(exercises.SENTENCES, exercises.TAUGHT))
    html = (sheets.teacher if teacher else sheets.students)(known, date.today())
    content = html.encode() if ending == ".html" else paper.pdf(html)
    try:
        files.write_whole(out, content)
    except OSError as error:
        raise InputError(f"{str(out)!r} cannot be written: {error.strerror}; needed: another place") from None
    tell({"path": str(out), "bytes": len(content), "teacher": teacher, "sentences": known.sentences is not None},
         as_json, lambda r: f"{r['path']}: {r['bytes']:,} bytes, prints on A4"
         + ("" if teacher else ", two pages; the answers: prunescope handout teacher.html --teacher"))


def _sentences(texts: tuple[str, ...], run: str) -> dict | None:
    """What the model says of the fourth step's examples; None, and why on stderr, where it cannot be asked."""
    from prune_core.evaluation import sentences

    try:
        return sentences.predict(shelf.find(run, places.RECORDED), "dense", [(text,) for text in texts], SPARSITIES)
    except InputError as error:
        say(f"note: step 4 has no picture and no answers: {error}")
        return None


def lesson(
    open_: Annotated[bool, Option("--open", help="Let other machines of the room connect, and print the address for "
                                                 "the board.")] = False,
    port: Annotated[int, Option(help="Where it listens.")] = 8501,
) -> None:
    """Start the app with Learn alone, read only: no other page is there, nothing can be started or deleted."""
    script = files.PROJECT / "pages" / "learn" / "alone.py"
    if not script.is_file():
        raise InputError(f"{str(script)!r} is not there: the app runs from Prunescope's own folder; needed: "
                         "`pip install -r requirements.txt` in it")
    data = os.environ.get("PRUNESCOPE_DATA")
    environment = os.environ | {"PRUNESCOPE_READ_ONLY": "1"} | ({"PRUNESCOPE_DATA": str(Path(data).resolve())}
                                                               if data else {})
    _free(port, open_)
    addresses = own_addresses() if open_ else []
    print(f"Here, for the projector: http://localhost:{port}/?present=true", file=sys.stderr)
    if open_:
        told = " or ".join(f"http://{address}:{port}" for address in addresses)
        print(f"For the board: {told or 'this machine is in no network'}", file=sys.stderr)
        print("note: whoever is in this network can open the lesson, and nothing else; Ctrl+C ends it",
              file=sys.stderr, flush=True)
    # The settings beside the app are read from the folder it is started in
    os.chdir(files.PROJECT)
    os.execve(sys.executable, [sys.executable, "-m", "streamlit", "run", str(script), *options(open_, port, addresses)],
              environment)


def options(open_: bool, port: int, addresses: Sequence[str]) -> list[str]:
    """What the lesson's server is started with, beside the project's own settings: nothing in, no paths out.

    Only pages of these addresses may connect; none but this machine's own browser where it is not open.
    """
    settings = {"server.address": "0.0.0.0" if open_ else "localhost", "server.port": port, "server.headless": True,
                "server.maxUploadSize": 1, "server.maxMessageSize": 20, "client.showErrorDetails": "none",
                "logger.hideWelcomeMessage": True, "browser.serverAddress": (addresses or ["localhost"])[0]}
    return [*(f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
              for name, value in settings.items()),
            *(f"--server.corsAllowedOrigins=http://{address}:{port}" for address in addresses)]


def own_addresses() -> list[str]:
    """This machine's IPv4 addresses in its networks, those of real cards first; [] in none."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = [(name.startswith(("docker", "br-", "veth", "virbr", "tun", "tap", "utun")), one.address)
             for name, addresses in psutil.net_if_addrs().items() if name in up for one in addresses
             if one.family == socket.AF_INET and not one.address.startswith(("127.", "169.254."))]
    return [address for _, address in sorted(found)]


def _free(port: int, open_: bool) -> None:
    """Raises InputError where something listens there already, or the port cannot be had."""
    try:
        with socket.socket() as trying:
            trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trying.bind(("0.0.0.0" if open_ else "localhost", port))
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be had ({getattr(error, 'strerror', None) or 'no such port'}); needed: "
                         "another one, for example --port 8502") from None
