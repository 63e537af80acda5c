// Plays from whatever has a data-start, and shows where the sound is. Runs once for each
// timeline element; its content is replaced with every transcript, so all listeners are on the
// element itself.

let frame = 0;

const audioOf = () => element.querySelector("audio");
const wordsOf = () => [...element.querySelectorAll(".tl-word")];

function playFrom(seconds) {
  const audio = audioOf();
  audio.currentTime = seconds;
  audio.play().catch(() => {}); // the browser wants a click first: the position is set anyway
}

function mark(selector, seconds) {
  for (const word of element.querySelectorAll(selector)) {
    const isNow = seconds >= Number(word.dataset.start) && seconds < Number(word.dataset.end);
    if (isNow) word.setAttribute("aria-current", "true");
    else word.removeAttribute("aria-current");
  }
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
  mark(".tl-word", audio.currentTime);
  mark(".tl-label", audio.currentTime);
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
