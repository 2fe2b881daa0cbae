// Streams sound through the hark.js of a folder, case by case from stdin, and prints what comes out, as JSON.
//
//     node stream.mjs FOLDER < cases.json

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { Hark, HarkError } = await import(`${pathToFileURL(process.argv[2])}/hark.js`);
const module = await WebAssembly.compile(readFileSync(`${process.argv[2]}/hark.wasm`));

const kinds = { float32: Float32Array, int16: Int16Array };

function run({ model: path, sound: soundPath, kind, chunks, choice, wanted = "step" }) {
  const model = new Hark(module, new Uint8Array(readFileSync(path)));
  const bytes = new Uint8Array(readFileSync(soundPath)).buffer;
  const sound = new kinds[kind](bytes);
  const stream = model.stream();
  const detector = choice ? model.detector(choice) : null;
  const bits = [];
  const detections = [];
  let begin = 0;
  for (const chunk of [...chunks, sound.length]) {
    const output = stream[wanted](sound.subarray(begin, begin + chunk));
    bits.push(...new Uint32Array(output.buffer));
    if (detector) detections.push(...detector.step(output));
    begin += chunk;
  }
  const { labels, sampleRate, stepSamples, firstStepSamples, classes, isInteger, operatingPoint } = model;
  return { bits, detections, labels, sampleRate, stepSamples, firstStepSamples, classes, isInteger, operatingPoint };
}

function result(one) {
  try {
    return run(one);
  } catch (error) {
    if (!(error instanceof HarkError)) throw error;
    return { error: error.message };
  }
}

console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(result)));
