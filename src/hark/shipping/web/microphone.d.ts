import type { Hark } from "./hark.js";

/** A microphone that a model listens to. */
export interface Microphone {
  /** Hz at which the browser gives sound; where it is not the model's, the sound is resampled. */
  readonly sampleRate: number;
  /** Ends listening and gives the microphone back. */
  stop(): Promise<void>;
}

/**
 * Runs a model on the microphone, in the audio thread. Call it from a click: browsers want one before they listen.
 * `onSteps` gets the posteriors of each step, (steps, classes); `onEnd` is told when the microphone goes away or
 * the engine fails. Rejects with a HarkError where there is no microphone, or it was not allowed.
 */
export function listen(
  model: Hark,
  onSteps: (posteriors: Float32Array) => void,
  onEnd?: (error: Error) => void,
): Promise<Microphone>;
