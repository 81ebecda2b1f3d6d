"""A JupyterLab of this checkout in the system's Chromium: for the tests of what notebooks show."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import nbformat
from browsing import ROOT, free_port, healthy, wait

READY = """async () => {
  const notebook = jupyterapp.shell.currentWidget;
  await notebook.context.ready;
  await notebook.sessionContext.ready;
  await notebook.sessionContext.session.kernel.info;
}"""
# No news over the corner, and a kernel before anything is run: else a run is dropped or a dialog asks for one
OVERRIDES = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
             "@jupyterlab/notebook-extension:tracker": {"autoStartDefaultKernel": True}}


@contextlib.contextmanager
def laboratory(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab with its files in `folder`, which keeps nothing of the user's and sends nothing."""
    settings, port = folder / ".lab" / "settings", free_port()
    for place in (settings, folder / ".lab" / "user", folder / ".lab" / "spaces", folder / ".lab" / "config"):
        place.mkdir(parents=True)
    app = folder / ".lab" / "app"
    (app / "settings").mkdir(parents=True)
    (app / "settings" / "overrides.json").write_text(json.dumps(OVERRIDES))
    shared = Path(sys.prefix) / "share" / "jupyter" / "lab"
    for part in ("static", "schemas", "themes"):
        (app / part).symlink_to(shared / part)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0",
               "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}",
               "--ServerApp.allow_root=True", "--LabApp.expose_app_in_browser=True", f"--LabApp.app_dir={app}",
               f"--LabApp.user_settings_dir={folder / '.lab' / 'user'}",
               f"--LabApp.workspaces_dir={folder / '.lab' / 'spaces'}"]
    here = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / ".lab" / "config"),
                         "JUPYTER_DATA_DIR": str(folder / ".lab" / "data"), "JUPYTER_PLATFORM_DIRS": "0"}
    with open(folder / ".lab" / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=here, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://localhost:{port}"
        wait("JupyterLab has started", lambda: healthy(address, process, "api"))
        yield address
    finally:
        process.terminate()
        process.wait(60)


def written(path: Path, cells: Sequence[str]) -> Path:
    """A notebook of these cells."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    path.write_text(nbformat.writes(made), encoding="utf-8")
    return path


class Notebook:
    """A notebook that is open in the browser, its kernel connected."""

    def __init__(self, page, address: str, name: str):
        self.page = page
        page.goto(f"{address}/lab/tree/{name}?reset")
        page.wait_for_function("window.jupyterapp?.shell.currentWidget?.context")
        page.evaluate(READY)

    def run_all(self) -> None:
        """Every cell; it is not waited for, as a promise of a cell that waits for the browser would never come."""
        self.page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run(self, number: int, code: str | None = None) -> str:
        """Run one cell, with this code in it; what it printed, which may come a moment after its end."""
        self.page.evaluate("""async ([number, code]) => {
          const { content: notebook, sessionContext } = jupyterapp.shell.currentWidget;
          if (code !== null) notebook.widgets[number].model.sharedModel.setSource(code);
          notebook.deselectAll();
          notebook.activeCellIndex = number;
          await jupyterapp.commands.execute('notebook:run-cell');
        }""", [number, code])
        if "print(" in (code or ""):
            wait("it is printed", lambda: self.printed(number))
        return self.printed(number)

    def printed(self, number: int) -> str:
        """What stands under a cell as text: its prints, or its error."""
        return self.page.evaluate("""number => jupyterapp.shell.currentWidget.content.widgets[number].model.toJSON()
          .outputs.map((one) => one.text ?? (one.traceback ?? []).join('') ?? '').flat().join('')""", number)

    def restart(self) -> None:
        """The kernel, as its menu does, without the question before."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.page.evaluate(READY)

    def map(self, cell: int = 0, number: int = 0) -> SimpleNamespace:
        """A map in a cell: its parts as locators; playwright looks into shadow roots by itself."""
        root = self.page.locator(".jp-Cell").nth(cell).locator(".prunescope-widget .prunescope").nth(number)
        return SimpleNamespace(root=root, handle=root.locator(".handle"), histogram=root.locator(".histogram"),
                               share=root.locator("input.share"), play=root.locator(".play"),
                               when=root.locator(".when"), score=root.locator("[data-number=score]"),
                               unheard=root.locator(".unheard"))
