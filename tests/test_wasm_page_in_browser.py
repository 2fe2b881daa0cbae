"""The page of `hark export --to wasm` in headless Chromium, with a WAV as its microphone.

Skipped, saying so, where clang or Chromium is not installed.
"""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hark.judging.detection import OperatingPoint
from hark.packed import packing
from hark.packed.front_end import log_mels
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import Convolution, FloatMatrix, Linear
from hark.packed.packed_model import PackedModel
from hark.runtime import Model
from hark.shipping.wasm_page import export_wasm
from hark.sound import audio
from test_wasm_page import needs

expect.set_options(timeout=30_000)  # five seconds are too few for a machine with other work
LABEL = "<i>beep</i>"
"""What would be markup, were it not shown as text."""
LONG_LABEL = "never" * 50
"""Of a word that is not there, too long for a line."""
BEEPS_S = (1.5, 2.5)
"""Late enough for a slow machine, whose engine begins some time after its microphone."""

NO_OTHER_RATE = """
  globalThis.AudioContext = class extends AudioContext {
    #rate;
    constructor(options) { super(options); this.#rate = options?.sampleRate; }
    createMediaStreamSource(sound) {
      if (this.#rate) throw new DOMException("different sample-rate", "NotSupportedError");
      return super.createMediaStreamSource(sound);
    }
  };
"""
"""A browser that, like Firefox, has no microphone at another rate than its own."""
NOT_ALLOWED = """
  navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("no", "NotAllowedError"));
"""
REMEMBER_MICROPHONE = """
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => (globalThis.microphone = await open(wish));
"""

WATCH_SCORES = """
  globalThis.scores = [];
  globalThis.until = (isSo) => new Promise((done, fail) => {
    const look = () => isSo(scores) && done();
    new MutationObserver(look).observe(score, { childList: true });
    setTimeout(() => fail(new Error("not within 30 s")), 30_000);
  });
  new MutationObserver(() => scores.push(Number(score.textContent))).observe(score, { childList: true });
"""
TRY_EVAL = """() => new Promise((done) => setTimeout(() => {
  try { done(eval("'ran'")); } catch (error) { done(error.name); }
}))"""


def recording() -> npt.NDArray[np.float32]:
    """Faint noise with two beeps of 1 kHz, 0.4 s each."""
    times = np.arange(round(3.5 * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    sound = 0.001 * np.random.default_rng(0).normal(size=len(times))
    for begin in BEEPS_S:
        beep = (times >= begin) & (times < begin + 0.4)
        sound[beep] += 0.3 * np.sin(2 * np.pi * 1_000 * times[beep])
    return sound.astype(np.float32)


def beep_spotter() -> PackedModel:
    """Hears how far the mel band of a 1 kHz tone rises above the others, each 80 ms, and never its other word."""
    front_end = LogMelConfig()
    tone = np.sin(2 * np.pi * 1_000 * np.arange(audio.SAMPLE_RATE) / audio.SAMPLE_RATE).astype(np.float32)
    band = int(log_mels(tone, front_end)[50].argmax())
    frames, bands = 8, front_end.n_mels
    weights = np.full((frames, bands), -1 / (bands - 1) / frames, np.float32)
    weights[:, band] = 1 / frames
    layers = (
        Convolution(FloatMatrix(weights.reshape(1, -1), np.zeros(1, np.float32)), (bands, frames), (1, frames)),
        Linear(FloatMatrix(np.array([[0], [1], [0]], np.float32), np.array([0, -4, -20], np.float32))),
    )
    labels = ("", LABEL, LONG_LABEL)
    return PackedModel(arithmetic="float32", front_end=front_end, layers=layers, labels=labels).check()


def with_operating_point(packed: PackedModel) -> PackedModel:
    """Its threshold half-way between what the engine makes of noise and of the beeps."""
    posteriors = Model(packing.to_bytes(packed)).stream().step(recording())[:, 1]
    low, high = np.quantile(posteriors, [0.5, 0.9])
    assert high - low > 0.8
    point = OperatingPoint(float(np.float32((low + high) / 2)), smoothing_steps=2, refractory_s=0.5)
    return replace(packed, operating_point=point).check()


class QuietHandler(SimpleHTTPRequestHandler):
    """As `python -m http.server`, without its log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page is served."""
    needs("clang", "wasm-ld")
    folder = tmp_path_factory.mktemp("wasm") / "page"
    export_wasm(packing.to_bytes(with_operating_point(beep_spotter())), folder)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, whose microphone plays the recording once each time that it is opened."""
    needs("chromium")
    heard = tmp_path_factory.mktemp("microphone") / "beeps.wav"
    audio.write(heard, recording())
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}%noloop",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A tab on a phone that asks for nothing but the page's own files and reports no error."""
    page = browser.new_page(viewport={"width": 360, "height": 740})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:")) else faults.append(request.url),
    )
    yield page
    page.close()
    assert not faults


def detection_times(page: Page) -> list[float]:
    """Seconds since listening began, in order of time."""
    rows = [row.split("\n") for row in reversed(page.locator("#detections li").all_inner_texts())]
    assert all(word == LABEL for word, _, _ in rows), rows
    return [float(time.removesuffix(" s")) for _, time, _ in rows]


def check_that_both_beeps_are_heard(page: Page) -> None:
    """A machine so busy that its engine began after the first has other tries: the microphone plays anew."""
    for tries_left in (2, 1, 0):
        page.click("text=Start listening")
        try:
            expect(page.locator("#detections li:not(.old)")).to_have_count(2)
            break
        except AssertionError:
            if not tries_left:
                raise
            page.click("text=Stop")
    first, second = detection_times(page)
    assert second - first == pytest.approx(BEEPS_S[1] - BEEPS_S[0], abs=0.25)


def test_the_page_hears_its_microphone(page: Page, address: str, tmp_path: Path) -> None:
    """And shows the label as it is, although it looks like markup."""
    page.goto(address)
    expect(page.locator("h1")).to_have_text(f"Listening for “{LABEL}”, “{LONG_LABEL}”")
    expect(page.locator("#none")).to_be_visible()
    check_that_both_beeps_are_heard(page)
    expect(page.locator("#status")).to_have_text("Listening.")
    expect(page.locator("#none")).to_be_hidden()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, "wider than the phone"


def test_a_new_start_forgets_the_stream_before(page: Page, address: str) -> None:
    page.goto(address)
    check_that_both_beeps_are_heard(page)
    page.click("text=Stop")
    expect(page.locator("#status")).to_have_text("Stopped.")
    page.evaluate("for (const row of detections.children) row.className = 'old'")
    check_that_both_beeps_are_heard(page)
    expect(page.locator("#detections li.old")).to_have_count(0)
    assert max(detection_times(page)) < BEEPS_S[1] + 0.5


def test_where_the_browser_has_another_rate_the_sound_is_resampled(page: Page, address: str) -> None:
    page.add_init_script(NO_OTHER_RATE)
    page.goto(address)
    check_that_both_beeps_are_heard(page)
    expect(page.locator("#status")).to_contain_text("resampled from")


def test_the_threshold_can_be_moved_while_listening(page: Page, address: str) -> None:
    """At 0 both words reach it at once, and a score that stays up is one detection."""
    page.goto(address)
    page.evaluate(WATCH_SCORES)
    page.wait_for_load_state("networkidle")  # then the page's own script listens to the slider
    page.press("#threshold", "Home")
    expect(page.locator("#threshold-value")).to_have_text("0.000")
    page.click("text=Start listening")
    page.evaluate("until((scores) => Math.max(...scores) > 0.9)")
    expect(page.locator("#detections li")).to_have_count(2)
    page.press("#threshold", "End")
    page.evaluate("scores.length = 0; until((scores) => scores.length > 2)")
    page.press("#threshold", "Home")
    expect(page.locator("#detections li")).to_have_count(4)


def test_a_microphone_that_is_not_allowed_is_told_with_the_way_out(page: Page, address: str) -> None:
    page.add_init_script(NOT_ALLOWED)
    page.goto(address)
    page.click("text=Start listening")
    expect(page.locator("#status")).to_have_text(
        "The microphone was not allowed; allow it for this page and start again."
    )
    expect(page.locator("button")).to_have_text("Start listening")
    expect(page.locator("button")).to_be_enabled()


def test_a_microphone_that_goes_away_is_told(page: Page, address: str) -> None:
    page.add_init_script(REMEMBER_MICROPHONE)
    page.goto(address)
    page.click("text=Start listening")
    expect(page.locator("#status")).to_have_text("Listening.")
    page.evaluate("microphone.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.locator("#status")).to_contain_text("The microphone has gone away")
    expect(page.locator("button")).to_have_text("Start listening")


def test_the_page_runs_no_text_as_code(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    assert page.evaluate(TRY_EVAL) == "EvalError"
    page.close()
