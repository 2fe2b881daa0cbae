/** What hark refuses, and why; the message says the way out. */
export class HarkError extends Error {}

/** When a model's posteriors become a detection. */
export interface OperatingPoint {
  /** On the scale of the posteriors; a score that reaches it counts. */
  threshold: number;
  /** The score is the mean of that many newest posteriors. */
  smoothingSteps: number;
  /** Seconds after a detection in which there is no other. */
  refractoryS: number;
}

/** The word was heard. */
export interface Detection {
  /** Seconds since the stream began, when the score reached the threshold. */
  timeS: number;
  /** At that moment. */
  score: number;
  /** The same time in samples, exactly. */
  sample: number;
}

/** A model, opened and checked: any number of streams may share it. */
export class Hark {
  /** Fetches and opens a model; by default hark.wasm and word.hark beside hark.js. */
  static load(wasm?: string | URL, model?: string | URL): Promise<Hark>;
  /** Throws a HarkError where the file is damaged or is no model. */
  constructor(module: WebAssembly.Module, file: Uint8Array);
  /** The compiled engine and the model's bytes: what another thread needs to open the same model. */
  readonly module: WebAssembly.Module;
  readonly file: Uint8Array;
  /** Hz; samples are taken at this rate. */
  readonly sampleRate: number;
  /** Samples of sound between two steps. */
  readonly stepSamples: number;
  /** Samples of sound before the first step. */
  readonly firstStepSamples: number;
  /** Numbers in a step: one for each label. */
  readonly classes: number;
  /** Whether the network computes in integers; else it does in float32. */
  readonly isInteger: boolean;
  /** Null where the file has none. */
  readonly operatingPoint: OperatingPoint | null;
  /** One label for each class, "" for everything else. Not in audio worklets, which cannot decode text. */
  readonly labels: string[];
  /** A stream that has heard nothing. Its memory lives as long as the model: reset a stream to use it again. */
  stream(): Stream;
  /**
   * A detector of one of the model's words; what is not given here is as in the file.
   * Throws a HarkError where there is no such label, or no threshold here nor in the file.
   */
  detector(choice?: Partial<OperatingPoint> & { label?: string }): Detector;
}

/** One stream of sound through a model: its state, and nothing that other streams share. */
export interface Stream {
  /** Hears more sound, any number of samples; gives the posteriors (steps, classes) that it completes. */
  step(samples: Float32Array | Int16Array): Float32Array;
  /** As `step`, but gives the logits, which do not saturate. */
  stepLogits(samples: Float32Array | Int16Array): Float32Array;
  /** Begins anew, as if nothing had been heard. */
  reset(): void;
}

/** Turns the posteriors of a stream into detections. Made by `Hark.detector`. */
export interface Detector {
  /** May be changed while a stream goes on. */
  threshold: number;
  readonly smoothingSteps: number;
  readonly refractoryS: number;
  /** The newest score. */
  readonly score: number;
  /** Takes the next posteriors (steps, classes) as a stream gives them, and gives the detections in them. */
  step(posteriors: Float32Array): Detection[];
  /** Begins anew, as if nothing had been heard. */
  reset(): void;
}
