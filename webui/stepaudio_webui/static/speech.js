// Plays speech while it is made; `props.value.run` names what to play, empty: nothing.

const AUDIO = "/voice/static/audio.js";
const FIRST_MS = 300; // of sound before it begins; twice as much after every gap
const LONGEST_MS = 4800;

let current = "";
let player = null;
let held = []; // pieces that wait until there is enough to go on without a gap
let needMs = FIRST_MS;

const root = () => element.querySelector(".sp");
const msOf = (pieces) => pieces.reduce((sum, piece) => sum + piece.length, 0) / 24;

function show(state, text) {
  root().dataset.state = state;
  element.querySelector(".sp-state").textContent = text;
  if (state !== "speaking") element.querySelector(".sp-level").style.transform = "scaleX(0)";
}

function heard({ item, ms, level }) {
  if (item !== current) return;
  const data = root().dataset;
  data.playedMs = ms;
  data.peak = Math.max(Number(data.peak), level).toFixed(4);
  element.querySelector(".sp-level").style.transform = `scaleX(${Math.min(1, level * 5)})`;
  show("speaking", `Speaking: ${(ms / 1000).toFixed(1)} s`);
}

function drained() {
  if (!current) return;
  if (root().dataset.complete === "true") {
    show("done", "Done");
    return;
  }
  needMs = Math.min(2 * needMs, LONGEST_MS);
  show("waiting", "Waiting for more sound");
}

async function ready() {
  const audio = await import(AUDIO);
  if (!player) {
    player = new audio.Player();
    player.addEventListener("played", ({ detail }) => heard(detail));
    player.addEventListener("drained", drained);
  }
  await player.start();
  return audio;
}

function release(run) {
  for (const piece of held) player.push(run, piece);
  held = [];
}

async function play(run) {
  current = run;
  held = [];
  needMs = FIRST_MS;
  if (player) player.flush();
  Object.assign(root().dataset, { playedMs: 0, peak: 0, complete: false, pushedMs: 0 });
  if (!run) {
    show("idle", "");
    return;
  }
  show("waiting", "Waiting for the first sound");
  const audio = await ready();
  let pushedMs = 0;
  for (let ended = false; !ended; ) {
    const got = await server.fetch({ run });
    if (run !== current) return;
    ended = got.ended;
    const pcm = audio.fromBase64(got.pcm);
    pushedMs += msOf([pcm]);
    held.push(pcm);
    if (ended || player.isBusy || msOf(held) >= needMs) release(run);
  }
  root().dataset.pushedMs = Math.round(pushedMs);
  root().dataset.complete = true;
  if (!player.isBusy) show(pushedMs ? "done" : "idle", pushedMs ? "Done" : "");
}

watch("value", () => {
  const run = props.value?.run ?? "";
  if (run === current) return;
  play(run).catch((error) => show("failed", `The sound cannot be played: ${error.message}`));
});
