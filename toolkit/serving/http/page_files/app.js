// The page of `toolkit app`: images and texts go to ./predict one after the other, answers become cards, the newest first.

const STAGES = ["decode", "preprocess", "network"];
const POLL_MS = 500;
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const ms = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;
const small = (value) => value.toExponential(1);

let queue = Promise.resolve();
let takesText = false;

function add(parent, tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

/** The answer's JSON; an error says what the server said. */
async function ask(url, options) {
  const response = await fetch(url, options);
  const content = await response.json();
  if (!response.ok) throw new Error(content.error ?? `the server answered ${response.status}`);
  return content;
}

/** Wait until the bundle passed its proof. */
async function model() {
  for (;;) {
    const health = await fetch("../v2/health/ready");
    if (health.ok) return ask("model");
    const missing = Object.values((await health.json()).models ?? {});
    const reason = missing.find((each) => each !== "loading");
    if (reason) throw new Error(reason);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function reads(told) {
  const pixels = `sees ${told.width}×${told.height} pixels`;
  if (!told.takes_image) return "reads a text";
  return told.takes_text ? `${pixels} and reads a text${told.takes_missing ? ", and either may be missing" : ""}` : pixels;
}

function describe(told) {
  takesText = told.takes_text;
  byId("say").hidden = !told.takes_text;
  byId("send").hidden = told.takes_image && !told.takes_missing;
  byId("drop").hidden = !told.takes_image;
  if (!told.takes_image) byId("text-label").textContent = "Text";
  document.title = `${told.name} – clip-toolkit`;
  byId("name").textContent = told.name;
  const threads = `${told.threads} thread${told.threads === 1 ? "" : "s"}`;
  byId("what").textContent =
    `${told.classes} classes, ${told.precision} on ${told.provider}, ${threads}; ` +
    `the network ${reads(told)}. Probabilities are calibrated (temperature ${told.temperature.toFixed(2)}).`;
  const badge = byId("parity");
  badge.hidden = false;
  const proof = told.parity;
  badge.classList.toggle("good", Boolean(proof?.passed));
  if (!proof) {
    badge.textContent = `No parity is on record for ${told.precision}.`;
    return;
  }
  const found = proof.max_abs_logit === null ? "" : `, largest logit difference ${small(proof.max_abs_logit)}`;
  const images = proof.images === null ? "" : ` on ${proof.images} ${told.takes_image ? "images" : "texts"}`;
  const agree = proof.top1_agreement === null ? "" : `, the same label on ${percent(proof.top1_agreement)}`;
  badge.textContent =
    `Parity with PyTorch ${proof.passed ? "passed" : "FAILED"} on ${proof.provider}${found}${images} ` +
    `(tolerated ${small(proof.tolerance)})${agree}.`;
}

function showExamples({ golden, golden_texts: texts, takes_image: takesImage }) {
  const row = byId("examples");
  for (let place = 0; place < golden; place += 1) {
    const text = texts?.[place];
    const button = add(row, "button");
    button.type = "button";
    button.title = `Predict golden ${takesImage ? "image" : "text"} ${place}`;
    if (!takesImage) {
      button.textContent = text;
      button.addEventListener("click", () => predict(`golden text ${place}`, null, text));
      continue;
    }
    const image = add(button, "img");
    image.src = `golden/${place}/small`;
    image.alt = `Golden image ${place}`;
    image.loading = "lazy";
    const read = async () => (await fetch(`golden/${place}`)).blob();
    button.addEventListener("click", () => predict(`golden image ${place}`, read, text));
  }
  byId("examples-section").hidden = golden === 0;
}

/** Image and text as a form, or an image alone as it is. */
function request(content, text) {
  if (!takesText) return { method: "POST", headers: { "content-type": "application/octet-stream" }, body: content };
  const body = new FormData();
  if (content) body.append("file", content, "image");
  if (text) body.append("text", text);
  return { method: "POST", body };
}

/** Put an image, a text, or both into the queue, with a card that waits for its answer. */
function predict(name, read, text = "") {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  card.querySelector(".file").textContent = name;
  if (text) {
    const said = card.querySelector(".said");
    said.textContent = text;
    said.hidden = false;
  }
  card.setAttribute("aria-busy", "true");
  byId("results").prepend(card);
  queue = queue.then(async () => {
    try {
      const content = read && (await read());
      const begun = performance.now();
      const answer = await ask("predict", request(content, text));
      show(card, answer, performance.now() - begun);
    } catch (error) {
      const fault = card.querySelector(".fault");
      fault.textContent = error.message;
      fault.hidden = false;
    }
    card.removeAttribute("aria-busy");
  });
}

function show(card, answer, whole) {
  for (const [kind, caption] of [["image", "as decoded"], ["seen", "as the network sees it"]]) {
    const image = card.querySelector(kind === "image" ? ".decoded" : ".seen");
    const picture = answer[kind];
    if (!picture) {
      image.parentElement.parentElement.hidden = true;
      continue;
    }
    image.src = `data:image/png;base64,${picture.png}`;
    image.nextElementSibling.textContent = `${caption}, ${picture.width}×${picture.height}`;
  }
  const label = card.querySelector(".label");
  if (typeof answer.value === "number") {
    add(label, "b", Number(answer.value.toPrecision(6)).toString());
  } else if (answer.labels) {
    add(label, "b", answer.labels.join(", ") || "no label");
  } else {
    add(label, "b", answer.label);
    add(label, "span", percent(answer.probability));
  }
  const bars = card.querySelector(".bars");
  for (const { label: name, probability } of answer.classes) {
    const row = add(bars, "li");
    add(row, "span", name, "class");
    const bar = add(row, "span", "", "bar");
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-label", `probability of ${name}`);
    for (const [key, value] of [["valuemin", 0], ["valuemax", 1], ["valuenow", probability]]) bar.setAttribute(`aria-${key}`, value);
    add(bar, "i").style.width = `${100 * probability}%`;
    add(row, "span", percent(probability), "share");
  }
  const there = STAGES.filter((stage) => stage in answer.milliseconds);
  const spent = there.map((stage) => answer.milliseconds[stage]);
  const sum = spent.reduce((one, other) => one + other, 0);
  const stages = there.map((stage, place) => `${stage} ${ms(spent[place])}`).join(" · ");
  card.querySelector(".stages").textContent = `${stages} · together ${ms(sum)}; until this page had it ${ms(whole)}`;
  const timeline = card.querySelector(".timeline");
  there.forEach((stage, place) => {
    const part = add(timeline, "i", "", stage);
    part.style.flexGrow = String(spent[place] / sum);
  });
  card.querySelector(".body").hidden = false;
}

function take(files) {
  const text = takesText ? byId("text").value.trim() : "";
  for (const file of files) predict(file.name, async () => file, text);
}

byId("say").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (text) predict("text", null, text);
});

const drop = byId("drop");
byId("files").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
document.addEventListener("paste", (event) => take([...event.clipboardData.files]));

try {
  const told = await model();
  describe(told);
  showExamples(told);
} catch (error) {
  byId("name").textContent = "The bundle does not answer";
  const what = byId("what");
  what.textContent = error.message;
  what.classList.add("fault");
}
