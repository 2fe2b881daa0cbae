// Runs models over sound in the WebAssembly module, chunk by chunk, and prints the bits of every logit, as run.c does.
//
//     node wasm.mjs hark.wasm sound.bin chunk model.hark...

import { readFileSync } from "node:fs";

const [wasm, soundFile, chunk, ...models] = process.argv.slice(2);
const module = new WebAssembly.Module(readFileSync(wasm));
const bytes = readFileSync(soundFile);
const sound = Float32Array.from(new Int16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2), (x) => x / 32768);

for (const model of models) {
  const engine = new WebAssembly.Instance(module, {}).exports;
  const file = readFileSync(model);
  const address = engine.reserve(file.length);
  new Uint8Array(engine.memory.buffer).set(file, address);
  const error = engine.open(address, file.length);
  console.log(`open ${error}`);
  if (error !== 0) continue;
  const classes = new Uint32Array(engine.memory.buffer, engine.describe(), 8)[3];
  const stream = engine.stream();
  const input = engine.reserve(4 * Number(chunk));
  const results = engine.reserve(4 * classes * (Number(chunk) + 1));
  for (let done = 0; done < sound.length; done += Number(chunk)) {
    const piece = sound.subarray(done, done + Number(chunk));
    new Float32Array(engine.memory.buffer).set(piece, input / 4);
    const steps = engine.step(stream, input, piece.length, results, 0);
    for (const bits of new Uint32Array(engine.memory.buffer, results, steps * classes))
      console.log(bits.toString(16).padStart(8, "0"));
  }
}
