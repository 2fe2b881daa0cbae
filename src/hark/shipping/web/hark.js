/**
 * A word spotter in JavaScript: hark's engine as WebAssembly, and the detector behind it.
 *
 *     const model = await Hark.load("hark.wasm", "word.hark");
 *     const stream = model.stream();
 *     const detector = model.detector();
 *     for (const { timeS, score } of detector.step(stream.step(samples))) console.log(timeS, score);
 *
 * The bits are those of hark in Python and in C, for every chunking. It runs in pages, workers, audio worklets and
 * Node, and takes nothing but this file, hark.wasm and a model. Types are in hark.d.ts.
 */

/** What hark refuses, and why; the message says the way out. */
export class HarkError extends Error {
  name = "HarkError";
}

/** A model, opened and checked: any number of streams may share it. */
export class Hark {
  /** The compiled engine and the model's bytes: what another thread needs to open the same model. */
  module;
  file;
  /** Hz; samples are taken at this rate. */
  sampleRate;
  /** Samples of sound between two steps, and before the first. */
  stepSamples;
  firstStepSamples;
  /** Numbers in a step: one for each label. */
  classes;
  /** Whether the network computes in integers; else it does in float32. */
  isInteger;
  /** `{ threshold, smoothingSteps, refractoryS }`, or null where the file has none. */
  operatingPoint;
  #engine;

  /**
   * Fetches and opens a model.
   *
   * @param {string | URL} [wasm] where hark.wasm is; beside this file by default, as is word.hark.
   * @param {string | URL} [model] where the .hark file is.
   */
  static async load(wasm = new URL("hark.wasm", import.meta.url), model = new URL("word.hark", import.meta.url)) {
    const [code, file] = await Promise.all([fetched(wasm), fetched(model)]);
    return new Hark(await WebAssembly.compile(code), file);
  }

  /**
   * @param {WebAssembly.Module} module hark.wasm, compiled.
   * @param {Uint8Array} file the bytes of a .hark file.
   * @throws {HarkError} the file is damaged, or is no model.
   */
  constructor(module, file) {
    this.module = module;
    this.file = file;
    this.#engine = new Engine(module, file);
    Object.assign(this, this.#engine.describe());
  }

  /** One label for each class, "" for everything else. Not in audio worklets, which cannot decode text. */
  get labels() {
    return Array.from({ length: this.classes }, (_, index) => this.#engine.label(index));
  }

  /** A stream that has heard nothing. Its memory lives as long as the model: reset a stream to use it again. */
  stream() {
    return new Stream(this.#engine);
  }

  /**
   * A detector of one of the model's words, at the operating point in its file.
   *
   * @param {{ label?: string, threshold?: number, smoothingSteps?: number, refractoryS?: number }} [choice]
   *   the word, where the model knows several, and whatever shall not be as in the file.
   * @throws {HarkError} there is no such label, or no threshold here nor in the file.
   */
  detector({ label, ...point } = {}) {
    const words = this.labels.filter((known) => known !== "");
    const word = label ?? (words.length === 1 ? words[0] : undefined);
    if (!words.includes(word)) {
      const found = word === undefined ? "no label" : `label "${word}"`;
      throw new HarkError(`${found}, expected one of: ${words.join(", ") || "none, the model has no word"}`);
    }
    return new Detector(this, this.labels.indexOf(word), { ...this.operatingPoint, ...point });
  }
}

/** One stream of sound through a model: its state, and nothing that other streams share. */
class Stream {
  #engine;
  #state;

  constructor(engine) {
    this.#engine = engine;
    this.#state = engine.newState();
  }

  /**
   * Hears more sound, any number of samples.
   *
   * @param {Float32Array | Int16Array} samples at the model's rate; floats in ±1.
   * @returns {Float32Array} the posteriors of the steps that it completes, (steps, classes) one after the other.
   */
  step(samples) {
    return this.#engine.step(this.#state, samples, "posteriors");
  }

  /** As `step`, but gives the logits, which do not saturate. */
  stepLogits(samples) {
    return this.#engine.step(this.#state, samples, "logits");
  }

  /** Begins anew, as if nothing had been heard. */
  reset() {
    this.#engine.reset(this.#state);
  }
}

/**
 * Turns the posteriors of a stream into detections, by the same law as hark's detector in Python.
 *
 * The score is the mean of the newest posteriors of one class. A detection falls on the step whose score reaches
 * the threshold from below, unless the refractory time of the one before still runs. A score that stays up is one
 * detection, however long it stays.
 */
class Detector {
  /** On the scale of the posteriors; may be changed while a stream goes on. */
  threshold;
  smoothingSteps;
  refractoryS;
  #model;
  #classIndex;
  #recent;
  #steps;
  #isAbove;
  #readyAtSample;
  #score;

  constructor(model, classIndex, { threshold, smoothingSteps = 1, refractoryS = 1 }) {
    expect(Number.isFinite(threshold), `threshold ${threshold}`, "a finite number: the file has none, give one");
    const isWhole = Number.isInteger(smoothingSteps) && smoothingSteps >= 1;
    expect(isWhole, `smoothing over ${smoothingSteps} steps`, "1 or more");
    expect(refractoryS >= 0 && refractoryS < Infinity, `a refractory time of ${refractoryS} s`, "0 or more");
    Object.assign(this, { threshold, smoothingSteps, refractoryS });
    this.#model = model;
    this.#classIndex = classIndex;
    this.reset();
  }

  /** The newest score. */
  get score() {
    return this.#score;
  }

  /** Begins anew, as if nothing had been heard. */
  reset() {
    this.#recent = [];
    this.#steps = 0;
    this.#isAbove = false;
    this.#readyAtSample = 0;
    this.#score = 0;
  }

  /**
   * Takes the next posteriors (steps, classes) as a stream gives them, and gives the detections in them.
   *
   * @param {Float32Array} posteriors any number of steps; one that is no number counts as 0.
   * @returns {{ timeS: number, score: number, sample: number }[]} times since the stream began.
   */
  step(posteriors) {
    const detections = [];
    for (let place = this.#classIndex; place < posteriors.length; place += this.#model.classes) {
      const detection = this.#oneStep(posteriors[place]);
      if (detection) detections.push(detection);
    }
    return detections;
  }

  #oneStep(posterior) {
    this.#recent.push(Number.isFinite(posterior) ? posterior : 0);
    if (this.#recent.length > this.smoothingSteps) this.#recent.shift();
    this.#score = this.#recent.reduce((sum, value) => sum + value, 0) / this.#recent.length;
    const wasAbove = this.#isAbove;
    this.#isAbove = this.#score >= this.threshold;
    const { sampleRate, stepSamples, firstStepSamples } = this.#model;
    const sample = firstStepSamples + this.#steps++ * stepSamples;
    if (wasAbove || !this.#isAbove || sample < this.#readyAtSample) return null;
    this.#readyAtSample = sample + roundedHalfToEven(this.refractoryS * sampleRate);
    return { timeS: sample / sampleRate, score: this.#score, sample };
  }
}

const SAMPLES_AT_ONCE = 4096;

const REFUSALS = {
  1: "there is no memory for it",
  "-1": "it is no .hark file",
  "-2": "it is cut off; copy it again",
  "-3": "it is damaged, its checksum differs; copy it again",
  "-4": "it is of another version; export this page again with the hark that made it",
  "-5": "it has parts that this engine does not know; export this page again with the hark that made it",
  "-6": "it breaks a rule of the format; export the model again",
  "-7": "it has a front end that this engine cannot do; export the model again",
  "-8": "it has too many layers; export the model again",
};

/** One instance of hark.wasm with one model in it. Addresses are numbers; nothing is ever given back. */
class Engine {
  #wasm;
  #classes;
  #input;
  #output;

  constructor(module, file) {
    this.#wasm = new WebAssembly.Instance(module, {}).exports;
    const address = this.#reserve(file.length);
    new Uint8Array(this.#wasm.memory.buffer).set(file, address);
    const error = this.#wasm.open(address, file.length);
    if (error !== 0) throw new HarkError(`the model cannot be opened: ${REFUSALS[error] ?? `error ${error}`}`);
    const { classes, stepSamples } = this.describe();
    this.#classes = classes;
    this.#input = this.#reserve(4 * SAMPLES_AT_ONCE);
    this.#output = this.#reserve(4 * classes * (Math.floor(SAMPLES_AT_ONCE / stepSamples) + 1));
  }

  /** hark_description of hark.h, by its names in JavaScript. */
  describe() {
    const { buffer } = this.#wasm.memory;
    const address = this.#wasm.describe();
    const whole = new Uint32Array(buffer, address, 8);
    const [threshold] = new Float32Array(buffer, address + 4 * 6, 1);
    const [sampleRate, stepSamples, firstStepSamples, classes, isInteger, smoothingSteps, , refractoryMs] = whole;
    const point = { threshold, smoothingSteps, refractoryS: refractoryMs / 1000 };
    const operatingPoint = smoothingSteps ? point : null;
    return { sampleRate, stepSamples, firstStepSamples, classes, isInteger: isInteger === 1, operatingPoint };
  }

  label(index) {
    const address = this.#wasm.label(index, this.#input);
    const { buffer } = this.#wasm.memory;
    const [length] = new Uint32Array(buffer, this.#input, 1);
    return new TextDecoder().decode(new Uint8Array(buffer, address, length));
  }

  newState() {
    return this.#wasm.stream() || outOfMemory();
  }

  reset(state) {
    this.#wasm.reset(state);
  }

  /** Hears samples in pieces; gives posteriors or logits, whichever is asked for. */
  step(state, samples, wanted) {
    const isInt16 = samples instanceof Int16Array;
    expect(isInt16 || samples instanceof Float32Array, "another kind of samples", "Float32Array or Int16Array");
    const results = new Float32Array(this.#wasm.steps(state, samples.length) * this.#classes);
    const [logits, posteriors] = wanted === "logits" ? [this.#output, 0] : [0, this.#output];
    let given = 0;
    for (let heard = 0; heard < samples.length; heard += SAMPLES_AT_ONCE) {
      const piece = samples.subarray(heard, heard + SAMPLES_AT_ONCE);
      const input = new Float32Array(this.#wasm.memory.buffer, this.#input, piece.length);
      if (isInt16) piece.forEach((sample, index) => (input[index] = sample / 32768));
      else input.set(piece);
      const steps = this.#wasm.step(state, this.#input, piece.length, logits, posteriors);
      results.set(new Float32Array(this.#wasm.memory.buffer, this.#output, steps * this.#classes), given);
      given += steps * this.#classes;
    }
    return results;
  }

  #reserve(bytes) {
    return this.#wasm.reserve(bytes) || outOfMemory();
  }
}

function outOfMemory() {
  throw new HarkError("out of memory; open the model again and use fewer streams");
}

function expect(isSo, found, expected) {
  if (!isSo) throw new HarkError(`${found}, expected ${expected}`);
}

/** As Python rounds, so that times are the same there and here. */
function roundedHalfToEven(value) {
  const below = Math.floor(value);
  const isUp = value - below > 0.5 || (value - below === 0.5 && below % 2 === 1);
  return below + (isUp ? 1 : 0);
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new HarkError(`${url}: the server answers ${response.status}; put the file there`);
  return new Uint8Array(await response.arrayBuffer());
}
