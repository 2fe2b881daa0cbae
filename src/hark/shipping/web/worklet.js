/**
 * The audio thread's part: says that it is ready, hears every sample, and posts the posteriors of each step.
 *
 * microphone.js is the other end. Whatever happens on the page's own thread, no sample is lost here.
 */

import { Hark } from "./hark.js";
import { Resampler } from "./resampler.js";

class HarkProcessor extends AudioWorkletProcessor {
  #stream;
  #resampler = null;

  constructor({ processorOptions: { module, file } }) {
    super();
    const model = new Hark(module, file);
    this.#stream = model.stream();
    if (sampleRate !== model.sampleRate) this.#resampler = new Resampler(sampleRate, model.sampleRate);
    this.port.postMessage("ready");
  }

  process([[samples]]) {
    if (samples) {
      const posteriors = this.#stream.step(this.#resampler ? this.#resampler.step(samples) : samples);
      if (posteriors.length) this.port.postMessage(posteriors, [posteriors.buffer]);
    }
    return true;
  }
}

registerProcessor("hark", HarkProcessor);
