// What is left of a conversation: to hear again, and to take away.

import { Player, RATE, joined } from "./audio.js";

const PAUSE = new Int16Array(RATE * 0.3); // between two turns

/** Plays turns again, on a loudspeaker of its own; "change" tells that it begins, goes on or ends. */
export class Replay extends EventTarget {
  constructor() {
    super();
    this.player = new Player();
    this.playing = null; // the turn that is heard
    this.waiting = [];
    this.player.addEventListener("drained", () => this.next());
  }

  get isOn() {
    return this.playing !== null;
  }

  async play(turns) {
    this.stop();
    await this.player.start();
    this.waiting = turns.filter(({ pcm }) => pcm.length);
    this.next();
  }

  next() {
    this.playing = this.waiting.shift() ?? null;
    if (this.playing) {
      const pcm = this.playing.role === "assistant" ? heardOf(this.playing) : joined(this.playing.pcm);
      this.player.push(this.playing, joined([pcm, PAUSE]));
    }
    this.dispatchEvent(new Event("change"));
  }

  stop() {
    this.player.flush();
    this.waiting = [];
    this.playing = null;
    this.dispatchEvent(new Event("change"));
  }
}

/** Of an answer that was interrupted, what the user has heard. */
function heardOf({ pcm, state, heardMs }) {
  const whole = joined(pcm);
  return state === "interrupted" ? whole.subarray(0, Math.round((heardMs * RATE) / 1000)) : whole;
}

/** All turns as one WAV file, in order. */
export function asWav(turns) {
  const pieces = turns
    .filter(({ pcm }) => pcm.length)
    .flatMap((turn) => [turn.role === "assistant" ? heardOf(turn) : joined(turn.pcm), PAUSE]);
  const pcm = joined(pieces);
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + pcm.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE, true);
  header.setUint32(28, RATE * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, pcm.byteLength, true);
  return new Blob([header, pcm], { type: "audio/wav" });
}

/** Texts, times and settings, for people and programs. */
export function asJson(turns, settings, model) {
  const rows = turns.map(({ role, at, text, name, arguments: given, pcm, latencyMs, heardMs, state }) => ({
    role,
    at,
    text,
    ...(role === "tool" ? { name, arguments: given } : {}),
    ...(role === "assistant" ? { first_sound_ms: latencyMs, heard_ms: heardMs } : {}),
    sound_ms: Math.round((joined(pcm).length / RATE) * 1000),
    state,
  }));
  const { persona, voice, handsFree } = settings;
  const whole = { model, voice, persona, mode: handsFree ? "hands-free" : "push-to-talk", turns: rows };
  return new Blob([JSON.stringify(whole, null, 2) + "\n"], { type: "application/json" });
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
