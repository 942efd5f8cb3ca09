// A bundle that `toolkit export` wrote, run by onnxruntime-web: the very graph that ships, from pixels to probabilities.

import { arraysIn } from "./npz.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
const GRAPHS = { fp32: "model.onnx", fp16: "model.fp16.onnx", int8: "model.int8.onnx" };

async function runtime() {
  try {
    return await import(RUNTIME);
  } catch {
    throw new Error("onnxruntime-web is not there: run npm install in this page's folder");
  }
}

/**
 * Open a bundle.
 * @param {URL} folder its address, with a stroke at the end
 * @param {string | null} wanted fp32, fp16 or int8; the bundle's default if null
 */
export async function openBundle(folder, wanted) {
  const ort = await runtime();
  if (!crypto.subtle) throw new Error("files can't be compared with the manifest: open the page by https or from localhost");
  const response = await fetch(new URL("manifest.json", folder));
  if (!response.ok) throw new Error(`no bundle at ${folder}: copy or link one there`);
  const manifest = await response.json();
  if (manifest.operating_point) throw new Error("the bundle decides by an operating point, which this page can't");
  const precision = wanted ?? Object.keys(GRAPHS).find((each) => GRAPHS[each] === manifest.default);
  if (!(GRAPHS[precision] in manifest.files)) throw new Error(`the bundle has no ${precision ?? "fp32, fp16 or int8"} graph`);

  /** A file of the bundle, whose SHA-256 is the manifest's. */
  async function file(name) {
    const answer = await fetch(new URL(name, folder));
    if (!answer.ok) throw new Error(`the bundle lacks ${name}`);
    const content = await answer.arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
    const hex = [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== manifest.files[name]?.sha256) throw new Error(`${name} was changed`);
    return new Blob([content]);
  }
  const json = async (name) => JSON.parse(await (await file(name)).text());

  const labels = await json("labels.json");
  const graph = new Uint8Array(await (await file(GRAPHS[precision])).arrayBuffer());
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  if (session.inputNames.includes("input_ids")) throw new Error("the bundle takes texts, which this page can't tokenize");
  if (session.inputNames[0] !== "image") throw new Error("the graph takes pixel_values: export with --input image");
  const decide = (logits) => labels[logits.indexOf(Math.max(...logits))];

  return {
    precision,
    file,
    decide,
    /** Label, its calibrated probability, logits, and how long the graph took. */
    async classify(blob) {
      const { rgb, height, width } = await decode(blob);
      const begun = performance.now();
      const outputs = await session.run({ image: new ort.Tensor("uint8", rgb, [1, height, width, 3]) });
      const milliseconds = performance.now() - begun;
      const logits = Array.from(outputs.logits.data);
      const label = decide(logits);
      return { label, probability: outputs.probabilities.data[labels.indexOf(label)], logits, milliseconds };
    },
    /** Names of the golden images, PyTorch's logits of each, and by how much a logit may differ. */
    async golden() {
      const arrays = arraysIn(await (await file("golden/reference.npz")).arrayBuffer());
      const parity = (await json("parity.json")).results[precision];
      const flat = arrays.logits.values;
      const logits = arrays.names.values.map((_, place) => [...flat.slice(place * labels.length, (place + 1) * labels.length)]);
      return { names: arrays.names.values, logits, tolerance: Object.values(parity)[0].tolerance };
    },
  };
}

/** RGB pixels [height, width, 3] of an image file: upright, transparency over white, colour profiles left alone. */
export async function decode(blob) {
  if (await hasManyBits(blob)) throw new Error("a PNG of 16 bits, which browsers scale to 8 in their own way");
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  } catch {
    throw new Error("no image that this browser decodes");
  }
  const { height, width } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(height * width * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) rgb.set(rgba.subarray(from, from + 3), to);
  return { rgb, height, width };
}

async function hasManyBits(blob) {
  const head = new DataView(await blob.slice(0, 25).arrayBuffer());
  return head.byteLength === 25 && head.getUint32(0) === 0x89504e47 && head.getUint8(24) === 16;
}
