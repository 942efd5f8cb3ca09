// Proves a bundle by its golden images in this browser, then classifies the images that are chosen.
// index.html?bundle=FOLDER/&precision=int8; the folder is ./bundle/ and the precision the default unless given.

import { openBundle } from "./bundle.js";

const asked = new URLSearchParams(location.search);
const proof = document.getElementById("proof");
const field = document.getElementById("files");

function addRow(name, cells) {
  const row = document.getElementById("rows").insertRow();
  for (const cell of [name, ...cells]) row.insertCell().textContent = cell;
}

async function classify(bundle, name, blob) {
  const { label, probability, logits, milliseconds } = await bundle.classify(blob);
  addRow(name, [label, `${(100 * probability).toFixed(2)} %`, milliseconds.toFixed(1)]);
  return { label, logits };
}

/** Every golden image against PyTorch's logits. */
async function prove(bundle) {
  const { names, logits, tolerance } = await bundle.golden();
  let same = 0;
  let largest = 0;
  for (const [place, name] of names.entries()) {
    const found = await classify(bundle, name, await bundle.file(`golden/${name}`));
    same += found.label === bundle.decide(logits[place]);
    logits[place].forEach((logit, each) => (largest = Math.max(largest, Math.abs(logit - found.logits[each]))));
  }
  const good = same === names.length && largest <= tolerance;
  proof.className = good ? "good" : "bad";
  proof.textContent =
    `${bundle.precision}: ${same} of ${names.length} golden images have PyTorch's label here; ` +
    `largest logit difference ${largest.toExponential(1)} (tolerated ${tolerance.toExponential(1)}).`;
}

try {
  const folder = new URL(asked.get("bundle") ?? "bundle/", location.href);
  const bundle = await openBundle(folder, asked.get("precision"));
  await prove(bundle);
  field.disabled = false;
  field.addEventListener("change", async () => {
    for (const file of [...field.files]) {
      try {
        await classify(bundle, file.name, file);
      } catch (error) {
        addRow(file.name, [error.message, "", ""]);
      }
    }
    field.value = "";
  });
} catch (error) {
  proof.className = "bad";
  proof.textContent = error.message;
}
