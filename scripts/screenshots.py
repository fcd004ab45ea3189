"""Open TensorBoard on a run in a browser without a window, and take pictures of its dashboards.

    python scripts/screenshots.py runs/digits                  -> docs/pictures/*.png
    python scripts/screenshots.py runs/digits --out DIR --only images projector

It needs selenium, and Chromium with its driver (Debian's packages chromium and chromium-driver).
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
BROWSER, DRIVER = "chromium", "chromedriver"
FLAGS = (
    "--headless",
    "--no-sandbox",  # it opens one page, of this machine
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",  # draws the projector's points without a GPU
    "--hide-scrollbars",
)
SIZE = (1440, 1100)  # pixels of the window
PATIENCE = 60  # seconds until something is there
RESTLESS = 10  # seconds after which a picture is taken all the same: the projector turns
DASHBOARDS: dict[str, tuple[str, str]] = {
    "time-series": ("timeseries", "card-view"),
    "scalars": ("scalars", "tf-scalar-card, vz-line-chart2"),
    "custom-scalars": ("custom_scalars", "vz-line-chart2"),
    "images": ("images", "img"),
    "distributions": ("distributions", "vz-distribution-chart"),
    "histograms": ("histograms", "vz-histogram-timeseries"),
    "graphs": ("graphs", "#svg g.node"),
    "pr-curves": ("pr_curves", "vz-line-chart2"),
    "text": ("text", "tf-text-loader"),
    "hparams": ("hparams", "tf-hparams-main"),
    "projector": ("projector", "canvas"),
}
"""Name of a picture: the dashboard in TensorBoard's address, and what is there when it is shown."""
IN_README = ("custom-scalars", "images", "projector")


def missing() -> list[str]:
    """Which of the programs it needs are not installed."""
    return [name for name in (BROWSER, DRIVER) if shutil.which(name) is None]


@contextmanager
def serve(log_dir: Path) -> Iterator[str]:
    """TensorBoard on a folder as it is now; gives the address, without a slash at the end.

    Raises:
        RuntimeError: it ends, or does not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # everything is read before the first answer
    command += ["--load_fast", "false", "--reload_task", "blocking", "--reload_interval", "0"]
    address = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log) as server,
    ):
        try:
            deadline = time.monotonic() + PATIENCE
            while not _has_runs(address):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"no answer of TensorBoard: {log.read().decode()}")
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def get(address: str, path: str, body: Any = None, **query: Any) -> Any:
    """What TensorBoard answers: JSON as objects, anything else as bytes.

    Args:
        address: of the server.
        path: such as ``scalars/tags``, after ``/data/plugin/``.
        body: is posted as JSON; None: nothing is.
        query: of the address.
    """
    url = f"{address}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        content = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
    return json.loads(content) if is_json else content


def _has_runs(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/data/runs", timeout=PATIENCE) as answer:
            return bool(json.load(answer))
    except (urllib.error.URLError, ConnectionError):
        return False


@contextmanager
def browser() -> Iterator[Any]:
    """A window of ``SIZE`` that nobody sees, as selenium's driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which(BROWSER) or BROWSER
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, Service(shutil.which(DRIVER)))
        try:
            yield driver
        finally:
            driver.quit()


def open_dashboard(driver: Any, address: str, name: str) -> None:
    """Show a dashboard, and wait until what belongs there is drawn.

    Raises:
        selenium.common.TimeoutException: it is not.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    plugin, selector = DASHBOARDS[name]
    driver.get("about:blank")  # otherwise only the part of the address behind # changes
    driver.get(f"{address}/#{plugin}")
    WebDriverWait(driver, PATIENCE).until(lambda d: count(d, selector), f"{name}: no {selector}")


_FIND = """
const found = [];
const search = (root) => {
  found.push(...root.querySelectorAll(arguments[0]));
  for (const element of root.querySelectorAll('*')) {
    if (element.shadowRoot) search(element.shadowRoot);
    if (element.tagName === 'IFRAME' && element.contentDocument) search(element.contentDocument);
  }
};
search(document);
return found.filter((element) => element.getClientRects().length > 0).length;
"""


def count(driver: Any, selector: str) -> int:
    """How many elements are shown, within the components of the page too."""
    count: int = driver.execute_script(_FIND, selector)
    return count


def complaints(driver: Any) -> list[str]:
    """Errors in the browser's console since it was asked last."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def take(driver: Any, address: str, name: str, path: Path) -> None:
    """Write a dashboard as PNG, of 128 colours, when it has come to rest."""
    open_dashboard(driver, address, name)
    before, after = b"", driver.get_screenshot_as_png()
    deadline = time.monotonic() + RESTLESS
    while before != after and time.monotonic() < deadline:
        time.sleep(1)
        before, after = after, driver.get_screenshot_as_png()
    with Image.open(io.BytesIO(after)) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Take the pictures. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("log_dir", type=Path, help="folder with runs, for tensorboard --logdir")
    parser.add_argument(
        "--out", type=Path, default=PICTURES, help="folder for the pictures (docs/pictures)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=DASHBOARDS,
        default=IN_README,
        metavar="NAME",
        help=f"any of {', '.join(DASHBOARDS)} (default: {' '.join(IN_README)})",
    )
    arguments = parser.parse_args(argv)
    if not list(arguments.log_dir.rglob("events.out.tfevents.*")):
        parser.error(f"{arguments.log_dir}: no event files there; give a --log-dir of cifar10.py")
    if missing():
        parser.error(f"{' and '.join(missing())}: not installed; apt-get install chromium-driver")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with serve(arguments.log_dir) as address, browser() as driver:
        for name in arguments.only:
            take(driver, address, name, arguments.out / f"{name}.png")
            print(f"-> {arguments.out / name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
