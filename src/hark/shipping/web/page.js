/** The example page: starts the microphone, draws the scores, lists the detections. */

import { curveColour, drawScores } from "./chart.js";
import { Hark } from "./hark.js";
import { listen } from "./microphone.js";

const SECONDS_SHOWN = 10;
const MOST_LISTED = 100;
/** For models whose file has none. */
const USUAL_POINT = { threshold: 0.5, smoothingSteps: 1, refractoryS: 1 };

let nextPicture = 0;

const part = (id) => document.getElementById(id);

/** Opens the model, then waits for the button. */
async function main() {
  const model = await Hark.load();
  const words = model.labels.filter((label) => label !== "");
  const point = model.operatingPoint ?? USUAL_POINT;
  const tracks = words.map((word) => ({ word, detector: model.detector({ label: word, ...point }), scores: [] }));
  describe(model, words, point);
  setThreshold(point.threshold);
  part("threshold").addEventListener("input", ({ target }) => {
    setThreshold(target.valueAsNumber);
    for (const { detector } of tracks) detector.threshold = target.valueAsNumber;
    draw(model, tracks);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(model, tracks));
  window.addEventListener("resize", () => draw(model, tracks));
  draw(model, tracks);
  runButton(model, tracks);
  say("Ready.");
}

/** The button starts a new stream and ends it. */
function runButton(model, tracks) {
  const button = part("listen");
  let microphone = null;
  const show = (isOn, text, isError = false) => {
    button.textContent = isOn ? "Stop" : "Start listening";
    button.disabled = false;
    say(text, isError);
  };
  const ended = (error) => {
    microphone = null;
    show(false, sentence(error.message), true);
  };
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      if (microphone) {
        await microphone.stop();
        microphone = null;
        show(false, "Stopped.");
        return;
      }
      forget(model, tracks);
      say("Waiting for the microphone.");
      microphone = await listen(model, (posteriors) => hear(model, tracks, posteriors), ended);
      show(true, `Listening${heardAt(microphone.sampleRate, model.sampleRate)}.`);
    } catch (error) {
      ended(error);
    }
  });
  button.disabled = false;
}

function heardAt(found, wanted) {
  return found === wanted ? "" : `, resampled from ${number(found)} to ${number(wanted)} Hz`;
}

function forget(model, tracks) {
  for (const track of tracks) {
    track.detector.reset();
    track.scores = [];
  }
  part("detections").replaceChildren();
  part("none").hidden = false;
  draw(model, tracks);
}

function hear(model, tracks, posteriors) {
  const stepsShown = Math.ceil((SECONDS_SHOWN * model.sampleRate) / model.stepSamples) + 1;
  for (let place = 0; place < posteriors.length; place += model.classes) {
    const step = posteriors.subarray(place, place + model.classes);
    for (const track of tracks) {
      const [detection] = track.detector.step(step);
      track.scores.push({ score: track.detector.score, isDetection: Boolean(detection) });
      if (track.scores.length > stepsShown) track.scores.shift();
      if (detection) list(track.word, detection);
    }
  }
  drawSoon(model, tracks);
}

/** Before the next picture, once: a hidden page has none and must not collect what to draw. */
function drawSoon(model, tracks) {
  nextPicture ||= requestAnimationFrame(() => {
    nextPicture = 0;
    draw(model, tracks);
  });
}

function list(word, { timeS, score }) {
  const row = document.createElement("li");
  for (const text of [word, `${timeS.toFixed(2)} s`, `score ${score.toFixed(3)}`]) {
    const cell = document.createElement("span");
    cell.textContent = text;
    row.append(cell, " ");
  }
  const rows = part("detections");
  rows.prepend(row);
  if (rows.children.length > MOST_LISTED) rows.lastChild.remove();
  part("none").hidden = true;
}

function draw(model, tracks) {
  const stepS = model.stepSamples / model.sampleRate;
  drawScores(part("chart"), tracks, { threshold: part("threshold").valueAsNumber, stepS, seconds: SECONDS_SHOWN });
  const newest = tracks.map(({ scores }) => scores.at(-1)?.score).filter((score) => score !== undefined);
  part("score").textContent = newest.length ? Math.max(...newest).toFixed(3) : "";
}

function describe(model, words, point) {
  part("words").textContent = words.map((word) => `“${word}”`).join(", ");
  document.title = `hark: ${words.join(", ")}`;
  part("legend").hidden = words.length < 2;
  part("legend").replaceChildren(...words.map(legendRow));
  const arithmetic = model.isInteger ? "integers" : "float32";
  const score = point.smoothingSteps === 1 ? "the posterior" : `the mean of ${point.smoothingSteps} posteriors`;
  const whence = model.operatingPoint ? "as the model's file says" : "a usual value; the file has none";
  part("about").textContent =
    `A model of ${number(model.file.length)} bytes in ${arithmetic}. It takes ${number(model.sampleRate)} ` +
    `samples a second and gives a score every ${(1000 * model.stepSamples) / model.sampleRate} ms: ${score}. ` +
    `After a detection there is none for ${point.refractoryS} s (${whence}).`;
}

function legendRow(word, index) {
  const row = document.createElement("li");
  row.textContent = word;
  row.style.setProperty("--colour", curveColour(index));
  return row;
}

function setThreshold(value) {
  part("threshold").disabled = false;
  part("threshold").value = value;
  part("threshold-value").textContent = value.toFixed(3);
}

function number(value) {
  return value.toLocaleString("en");
}

function say(text, isError = false) {
  part("status").textContent = text;
  part("status").classList.toggle("error", isError);
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

main().catch((error) => say(sentence(error.message), true));
