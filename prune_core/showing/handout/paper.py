"""HTML to PDF by a Chromium that is on this machine; nothing is fetched, and no other converter is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from prune_core import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
          "/Applications/Chromium.app/Contents/MacOS/Chromium",
          "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
          r"C:\Program Files\Google\Chrome\Application\chrome.exe",
          r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe")
PATIENCE = 300  # seconds


def browser() -> str | None:
    """The program, None where there is none."""
    found = (shutil.which(name) for name in (*NAMES, *PLACES))
    return next((one for one in found if one), None)


def pdf(html: str) -> bytes:
    """The page as it prints. Raises InputError where no Chromium is found, or it fails."""
    if (program := browser()) is None:
        raise InputError("a PDF is made by Chromium or Chrome, and none is on this machine; needed: one of them, or a "
                         "name that ends in .html, which any browser prints")
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
        page, out = Path(folder) / "page.html", Path(folder) / "page.pdf"
        page.write_text(html, encoding="utf-8")
        root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # Chromium refuses root without
        try:
            done = subprocess.run([program, "--headless", "--disable-gpu", *root, f"--user-data-dir={folder}/profile",
                                   "--no-first-run", "--no-pdf-header-footer", f"--print-to-pdf={out}", page.as_uri()],
                                  stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{program} did not make the PDF: {type(error).__name__}; needed: a name that ends in "
                             ".html, which any browser prints") from None
        if done.returncode or not out.is_file():
            raise InputError(f"{program} ended with code {done.returncode} and no PDF; needed: a name that ends in "
                             ".html, which any browser prints")
        return out.read_bytes()
