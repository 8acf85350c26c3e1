"""Speed and exactness of the page that `export --web` writes, in headless Chromium.

    python -m benchmarks.web_page PACKAGE [--net NET] [--rounds 20] [--json]

PACKAGE is the unpacked npm package onnxruntime-web. A time is that of a photo, from its bytes to the drawn page:
decoding, rescaling, the net in one thread, and drawing all open layers, but not the browser's painting after that. It
is a median. The first photo, for which the browser compiles the scripts, is reported apart. Exactness is the largest
difference from Python on the example photos, in grey levels and in probability; that of noise of two levels is beside
it.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import alexnet_infer
from alexnet_infer.artifact import load_artifact, sha256
from alexnet_infer.commands.compare import example_photos
from alexnet_infer.decode import read_rgb
from alexnet_infer.export.web.runtime import read_runtime
from alexnet_infer.export.web.site import Site, write_site
from alexnet_infer.nets import choose_nets, find_net
from alexnet_infer.preprocess import square_of
from tests.chromium import Chromium
from tests.export.web.serving import FolderServer

PIXELS = """(async () => {
  const { decode } = await import("/decode.js");
  const pixels = await decode(await (await fetch("/examples/%s")).blob(), 1e8);
  const { width, height, data } = pixels;
  let text = "";
  for (let i = 0; i < data.length; i += 32768) text += String.fromCharCode(...data.subarray(i, i + 32768));
  return [width, height, btoa(text)];
})()"""


def click(browser: Chromium, number: int) -> None:
    """Choose an example photo and wait until its result is drawn."""
    before = int(browser.run("document.body.dataset.shown ?? 0"))
    browser.run(f"document.querySelectorAll('#examples button')[{number}].click()")
    browser.wait(f"document.body.dataset.shown > {before}")


def measure(browser: Chromium, net: alexnet_infer.Net, rounds: int) -> dict[str, object]:
    """Return the figures for the page that is open."""
    times: dict[str, list[float]] = {"first": []}
    pixels, probability, noise = [], [], []
    rng = np.random.default_rng(0)
    for views in ("one", "ten"):
        net.views = "center" if views == "one" else "ten"
        browser.run(f"document.getElementById('{views}').checked = true")
        times[views] = []
        for i in range(rounds):
            click(browser, i % len(example_photos()))
            ms = float(browser.run("document.getElementById('time').dataset.total"))
            times["first" if not times["first"] else views].append(ms)
        for number, path in enumerate(example_photos()):
            click(browser, number)
            shown = np.array(browser.run("JSON.parse(document.body.dataset.probabilities)"))
            image = read_rgb(path, name=path.name)
            expected = net.probabilities([square_of(image, net.rescaling)])[0]
            probability.append(np.abs(shown - expected).max())
            width, height, data = browser.run(PIXELS % path.name)
            seen = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[:, :, :3]
            pixels.append(np.abs(seen.astype(int) - np.asarray(image)).max())
            noisy = np.clip(np.asarray(image).astype(int) + rng.integers(-2, 3, (height, width, 3)), 0, 255)
            square = square_of(Image.fromarray(noisy.astype(np.uint8)), net.rescaling)
            noise.append(np.abs(net.probabilities([square])[0] - expected).max())
    return {
        "ms": {name: round(statistics.median(values), 1) for name, values in times.items()},
        "largest difference in levels": int(max(pixels)),
        "largest difference in probability": float(max(probability)),
        "the same for noise of two levels": float(max(noise)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--net", help="the name or file of a net; default: the bundled one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    (path,) = choose_nets([find_net(arguments.net)] if arguments.net else [], None)
    with tempfile.TemporaryDirectory() as folder:
        runtime = read_runtime(arguments.package)
        site = Site(artifact=load_artifact(path), sha256=sha256(path), runtime=runtime, photos=example_photos())
        write_site(site, Path(folder, "site"))
        server = FolderServer(Path(folder, "site"))
        with Chromium(Path(folder, "profile"), seconds=300) as browser:
            browser.resize(1400)
            browser.open(server.url)
            browser.wait("document.getElementById('status').textContent == 'Ready.'")
            result = {
                "browser": browser.run("navigator.userAgent.match(/Chrome[/]([0-9.]+)/)[0]"),
                **measure(browser, alexnet_infer.load(path, device="cpu", backend="onnxruntime"), arguments.rounds),
            }
        server.close()
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
