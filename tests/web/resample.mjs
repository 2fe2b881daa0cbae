// Resamples float32 sound from stdin with the resampler.js of a folder, in chunks, and writes it to stdout.
//
//     node resample.mjs FOLDER FROM_RATE TO_RATE CHUNK < in.f32 > out.f32

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, ...numbers] = process.argv.slice(2);
const [fromRate, toRate, chunk] = numbers.map(Number);
const { Resampler } = await import(`${pathToFileURL(folder)}/resampler.js`);

const sound = new Float32Array(new Uint8Array(readFileSync(0)).buffer);
const resampler = new Resampler(fromRate, toRate);
for (let begin = 0; begin < sound.length; begin += chunk) {
  process.stdout.write(new Uint8Array(resampler.step(sound.subarray(begin, begin + chunk)).buffer));
}
