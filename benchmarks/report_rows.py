"""The row of reports: how large the page about a network is, and how soon it is made and painted."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figure, Options, float_file, say


def report(options: Options) -> list[Figure]:
    """The page about MobileNetV2: bytes, seconds beyond measuring, and first paint in a headless browser."""
    from tests.browser import find_browser, tab

    import featherweight as fw
    from featherweight.report.evidence import with_evidence

    model = fw.load(float_file("mobilenet_v2"))
    shape = model.main.tensors[model.main.inputs[0]].shape[1:]
    samples = list(np.random.default_rng(0).uniform(-1, 1, (8, *shape)).astype(np.float32))
    say("quantizing and measuring")
    made = fw.quantize(model, calibration=samples, progress=False)
    found = with_evidence(made.report, model, made.model, made.plan, {0: samples}, progress=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "report.html")
        start = time.perf_counter()
        for size in (found.before, found.after):
            say(f"{size.file_bytes:,} bytes, {size.compressed_bytes:,} deflated")
        measured = time.perf_counter()
        found.html(path)
        made_after = time.perf_counter()
        figures = [
            Figure("page about MobileNetV2", path.stat().st_size / 1000, "kB", at_most=300),
            Figure("made in, beyond measuring", made_after - measured, "s", at_most=1.0, note="imports included"),
            Figure("measuring both files' sizes, deflated", measured - start, "s"),
        ]
        if find_browser() is None:
            return figures
        with tab(Path(folder, "profile")) as browser:
            browser.open(path)
            browser.call("Page.captureScreenshot", format="png")
            paint = browser.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            version = browser.call("Browser.getVersion")["product"]
    return [*figures, Figure("first paint", paint, "ms", at_most=1000, note=version)]
