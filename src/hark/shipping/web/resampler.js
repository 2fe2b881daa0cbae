/** Half the length of the filter, in samples of the slower rate. */
const REACH = 48;
/** The middle of the filter's slope, of half the slower rate. */
const CUTOFF = 0.94;

/**
 * Band-limited resampling of a stream: a sinc under a Blackman window, one set of weights for each place that an
 * output sample can have between two input samples. Any chunking gives the same output.
 */
export class Resampler {
  #up;
  #down;
  #half;
  #weights;
  #past;
  #phase = 0;

  /** @param {number} fromRate Hz @param {number} toRate Hz, whole numbers both. */
  constructor(fromRate, toRate) {
    const divisor = greatestCommonDivisor(fromRate, toRate);
    this.#up = toRate / divisor;
    this.#down = fromRate / divisor;
    this.#half = Math.ceil(REACH * Math.max(1, fromRate / toRate));
    const cutoff = CUTOFF * Math.min(1, toRate / fromRate);
    this.#weights = Array.from({ length: this.#up }, (_, phase) => filter(phase / this.#up, this.#half, cutoff));
    this.#past = new Float32Array(this.#half - 1);
  }

  /**
   * Takes any number of samples; gives those of the other rate that they complete. The newest samples wait for the
   * filter, some milliseconds.
   *
   * @param {Float32Array} samples
   * @returns {Float32Array}
   */
  step(samples) {
    const sound = new Float32Array(this.#past.length + samples.length);
    sound.set(this.#past);
    sound.set(samples, this.#past.length);
    const taps = 2 * this.#half;
    const output = [];
    let begin = 0;
    while (begin + taps <= sound.length) {
      output.push(weightedSum(this.#weights[this.#phase], sound, begin));
      this.#phase += this.#down;
      begin += Math.floor(this.#phase / this.#up);
      this.#phase %= this.#up;
    }
    this.#past = sound.subarray(begin);
    return Float32Array.from(output);
  }
}

/** Weights of the `2 * half` samples around a place `fraction` behind the sample before it; their sum is 1. */
function filter(fraction, half, cutoff) {
  const weights = Float64Array.from({ length: 2 * half }, (_, tap) => {
    const distance = tap - (half - 1) - fraction;
    const turn = (Math.PI * distance) / half;
    const window = 0.42 + 0.5 * Math.cos(turn) + 0.08 * Math.cos(2 * turn);
    return window * sinc(cutoff * distance);
  });
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

function weightedSum(weights, sound, begin) {
  let sum = 0;
  for (let tap = 0; tap < weights.length; tap++) sum += weights[tap] * sound[begin + tap];
  return sum;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function greatestCommonDivisor(a, b) {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
