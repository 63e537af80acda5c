// Plays from whatever has a data-start, and shows where the sound is. Runs once for each
// timeline element; its content is replaced with every transcript, so all listeners are on the
// element itself.

let frame = 0;
let index = { root: null, rows: [], marked: [] };

const audioOf = () => element.querySelector("audio");
const wordsOf = () => [...element.querySelectorAll(".tl-word")];

function playFrom(seconds) {
  const audio = audioOf();
  audio.currentTime = seconds;
  audio.play().catch(() => {}); // the browser wants a click first: the position is set anyway
}

/** Words of the text and of the strip with their times, read once for each transcript. */
function known() {
  const root = element.querySelector(".tl");
  if (root !== index.root) {
    const rows = [".tl-word", ".tl-label"].map((selector) =>
      [...root.querySelectorAll(selector)].map((node) => ({
        node,
        start: Number(node.dataset.start),
        end: Number(node.dataset.end),
      })),
    );
    index = { root, rows, marked: [] };
  }
  return index;
}

function wordAt(row, seconds) {
  let low = 0;
  let high = row.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row[middle].start <= seconds) low = middle + 1;
    else high = middle;
  }
  const found = row[low - 1];
  return found && seconds < found.end ? found.node : null;
}

function mark(seconds) {
  const { rows, marked } = known();
  rows.forEach((row, i) => {
    const node = wordAt(row, seconds);
    if (node === (marked[i] ?? null)) return;
    marked[i]?.removeAttribute("aria-current");
    node?.setAttribute("aria-current", "true");
    marked[i] = node;
  });
}

function show() {
  const audio = audioOf();
  const canvas = element.querySelector(".tl-canvas");
  if (!audio || !canvas) return;
  const at = (audio.currentTime / Number(canvas.dataset.duration)) * canvas.clientWidth;
  element.querySelector(".tl-head").style.transform = `translateX(${at}px)`;
  const strip = canvas.parentElement;
  const margin = Math.min(80, strip.clientWidth / 4);
  const isOutside = at < strip.scrollLeft || at > strip.scrollLeft + strip.clientWidth - margin;
  if (!audio.paused && isOutside) strip.scrollLeft = at - margin;
  mark(audio.currentTime);
}

function follow() {
  cancelAnimationFrame(frame);
  show();
  const audio = audioOf();
  if (audio && !audio.paused) frame = requestAnimationFrame(follow);
}

// Media events do not bubble, but they can be captured.
for (const name of ["play", "pause", "seeked", "ended"]) {
  element.addEventListener(name, follow, true);
}

element.addEventListener("click", (event) => {
  const canvas = event.target.closest(".tl-canvas");
  const target = event.target.closest("[data-start]");
  if (target) {
    playFrom(Number(target.dataset.start));
  } else if (canvas) {
    const box = canvas.getBoundingClientRect();
    playFrom(((event.clientX - box.left) / box.width) * Number(canvas.dataset.duration));
  }
});

element.addEventListener("keydown", (event) => {
  if (!event.target.classList.contains("tl-word")) return;
  const words = wordsOf();
  const here = words.indexOf(event.target);
  const steps = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: words.length - 1 };
  const next = words[steps[event.key]];
  if (!next) return;
  event.preventDefault();
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
