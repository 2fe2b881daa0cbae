import { HarkError } from "./hark.js";

/** Sound as it is: models learn from raw recordings, and what improves calls does not improve them. */
const RAW = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

const REFUSALS = {
  NotAllowedError: "the microphone was not allowed; allow it for this page and start again",
  NotFoundError: "there is no microphone; connect one and start again",
  NotReadableError: "the microphone cannot be read; end what else uses it and start again",
};

/**
 * Runs a model on the microphone, in the audio thread. Call it from a click: browsers want one before they listen.
 *
 * @param {import("./hark.js").Hark} model
 * @param {(posteriors: Float32Array) => void} onSteps gets the posteriors of each step, (steps, classes).
 * @param {(error: Error) => void} [onEnd] is told when the microphone goes away or the engine fails.
 * @returns {Promise<{ sampleRate: number, stop: () => Promise<void> }>} the rate at which the browser gives sound;
 *   where it is not the model's, the sound is resampled.
 * @throws {HarkError} there is no microphone, or it was not allowed.
 */
export async function listen(model, onSteps, onEnd = () => {}) {
  const sound = await openMicrophone();
  const [track] = sound.getAudioTracks();
  let context = null;
  const stop = async () => {
    track.stop();
    if (context && context.state !== "closed") await context.close();
  };
  const end = (reason) => stop().then(() => onEnd(new HarkError(reason)));
  try {
    let source;
    ({ context, source } = await openContext(sound, model.sampleRate));
    await context.resume();
    const node = await addEngine(context, model);
    node.port.onmessage = ({ data }) => context.state !== "closed" && onSteps(data);
    node.onprocessorerror = () => end("the engine has failed in the audio thread; start again");
    track.onended = () => end("the microphone has gone away; connect it and start again");
    // The node is silent. Some browsers run only what leads to the loudspeaker.
    source.connect(node).connect(context.destination);
    return { sampleRate: context.sampleRate, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function openMicrophone() {
  if (!navigator.mediaDevices) {
    throw new HarkError("no microphone can be had at this address; open the page by https or from localhost");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: RAW });
  } catch (error) {
    throw new HarkError(REFUSALS[error.name] ?? `the microphone cannot be opened (${error.message})`);
  }
}

/** A context at the model's rate, or at the browser's own where it has no microphone at another (Firefox). */
async function openContext(sound, sampleRate) {
  try {
    return await tryContext(sound, { sampleRate });
  } catch (error) {
    if (error.name !== "NotSupportedError") throw error;
    return tryContext(sound, {});
  }
}

async function tryContext(sound, options) {
  const context = new AudioContext(options);
  try {
    return { context, source: context.createMediaStreamSource(sound) };
  } catch (error) {
    await context.close();
    throw error;
  }
}

/** The node with the engine, once it has opened the model. */
async function addEngine(context, { module, file }) {
  await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  const mono = { channelCount: 1, channelCountMode: "explicit", channelInterpretation: "speakers" };
  const node = new AudioWorkletNode(context, "hark", { ...mono, processorOptions: { module, file } });
  return new Promise((resolve, reject) => {
    node.port.onmessage = () => resolve(node);
    const reason = "the engine cannot start in the audio thread; update the browser";
    node.onprocessorerror = () => reject(new HarkError(reason));
  });
}
