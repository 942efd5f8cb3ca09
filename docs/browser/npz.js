// numpy's .npz as np.savez writes it: a zip archive whose files are stored as they are, each an array (.npy).

const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const END_BYTES = 22;
const CENTRAL_BYTES = 46;
const LOCAL_BYTES = 30;
const TYPES = { "<f4": Float32Array, "<f8": Float64Array };

/** Arrays by name: {shape, values}; values are a typed array, or strings. */
export function arraysIn(buffer) {
  const view = new DataView(buffer);
  const end = buffer.byteLength - END_BYTES;
  if (end < 0 || view.getUint32(end, true) !== END) throw new Error("the archive is damaged");
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left -= 1) {
    if (view.getUint32(at, true) !== CENTRAL || view.getUint16(at + 10, true) !== 0) throw new Error("the archive is damaged");
    const [size, nameBytes, extraBytes, noteBytes] = [
      view.getUint32(at + 24, true), view.getUint16(at + 28, true), view.getUint16(at + 30, true), view.getUint16(at + 32, true),
    ];
    const name = new TextDecoder().decode(new Uint8Array(buffer, at + CENTRAL_BYTES, nameBytes)).replace(/\.npy$/, "");
    const local = view.getUint32(at + 42, true);
    const begins = local + LOCAL_BYTES + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays[name] = arrayIn(buffer.slice(begins, begins + size));
    at += CENTRAL_BYTES + nameBytes + extraBytes + noteBytes;
  }
  return arrays;
}

function arrayIn(buffer) {
  const headBytes = new DataView(buffer).getUint16(8, true);
  const head = new TextDecoder().decode(new Uint8Array(buffer, 10, headBytes));
  const [, type] = /'descr': '([^']+)'/.exec(head);
  const shape = [.../'shape': \(([^)]*)\)/.exec(head)[1].matchAll(/\d+/g)].map(Number);
  const content = buffer.slice(10 + headBytes);
  if (type in TYPES) return { shape, values: new TYPES[type](content) };
  const [, length] = /^<U(\d+)$/.exec(type) ?? [];
  if (length === undefined) throw new Error(`an array of ${type}`);
  const points = new Uint32Array(content);
  const values = Array.from({ length: shape[0] }, (_, place) =>
    String.fromCodePoint(...points.slice(place * length, (place + 1) * length)).replace(/\0+$/, ""));
  return { shape, values };
}
