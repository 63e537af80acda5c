// Microphone, loudspeaker and files; everything is mono at 24 kHz.

export const RATE = 24000;
const WORKLETS = new URL("worklets.js", import.meta.url);

const REFUSED =
  "The browser does not let this page use the microphone. Allow it beside the address of the " +
  "page, then try again. Typing and uploading a recording work without it.";
const PROBLEMS = {
  NotAllowedError: REFUSED,
  SecurityError: REFUSED,
  NotFoundError:
    "There is no microphone. Plug one in and try again, or type, or upload a recording.",
  NotReadableError:
    "The microphone is used by another program. Close that one and try again, or type.",
};
const INSECURE =
  "Browsers give pages the microphone only over https or on the computer itself. Open this page " +
  "as http://localhost, or type, or upload a recording.";

/** Something that a person is told in these words. */
export class PlainError extends Error {}

/** The microphone; `onChunk({pcm, level})` gets PCM16, 40 ms at a time; `onLost()` if it goes. */
export class Microphone {
  constructor(onChunk, onLost) {
    this.onChunk = onChunk;
    this.onLost = onLost;
    this.context = null;
  }

  get isOpen() {
    return this.context !== null;
  }

  /** Throws a PlainError where there is none, or it is refused. */
  async open() {
    if (this.isOpen) return;
    if (!navigator.mediaDevices) throw new PlainError(INSECURE);
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true },
      });
    } catch (error) {
      throw new PlainError(PROBLEMS[error.name] ?? `The microphone does not work: ${error.message}`);
    }
    this.stream.getAudioTracks()[0].onended = () => this.onLost();
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.audioWorklet.addModule(WORKLETS);
    const node = new AudioWorkletNode(this.context, "stepaudio-capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => this.onChunk(data);
    this.context.createMediaStreamSource(this.stream).connect(node);
    await this.context.resume();
  }

  async close() {
    const { context, stream } = this;
    if (!context) return;
    this.context = null;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
  }
}

/** The loudspeaker; tells of "played" {item, ms, level}, "drained" and "flushed" {item, ms}. */
export class Player extends EventTarget {
  constructor() {
    super();
    this.node = null;
    this.item = null; // what is heard now
    this.playedMs = 0; // of it
    this.isBusy = false;
    this.pushed = 0; // pieces
    this.starting = null;
  }

  /** Make ready; must be called from a click or key. */
  start() {
    this.starting ??= this.build();
    return this.starting;
  }

  async build() {
    this.context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    await this.context.audioWorklet.addModule(WORKLETS);
    this.node = new AudioWorkletNode(this.context, "stepaudio-player", {
      numberOfInputs: 0,
      outputChannelCount: [1],
    });
    this.node.port.onmessage = ({ data }) => this.hear(data);
    this.node.connect(this.context.destination);
    await this.context.resume();
  }

  /** Play PCM16 behind what waits already. */
  push(item, pcm) {
    if (!this.node || !pcm.length) return;
    const samples = Float32Array.from(pcm, (x) => x / 32768);
    this.isBusy = true;
    this.pushed++;
    this.node.port.postMessage({ push: samples, item }, [samples.buffer]);
  }

  /** Stop at once; returns what was being heard and how much of it. */
  flush() {
    const heard = { item: this.item, ms: this.playedMs };
    if (this.node) this.node.port.postMessage({ flush: true });
    this.item = null;
    this.isBusy = false;
    return heard;
  }

  hear(data) {
    if (data.drained) {
      if (data.drained < this.pushed) return; // told before the last piece came
      this.isBusy = false;
      this.dispatchEvent(new Event("drained"));
      return;
    }
    const ms = Math.round((data.played / RATE) * 1000);
    if ("flushed" in data) {
      this.tell("flushed", { item: data.flushed, ms });
      return;
    }
    this.item = data.item;
    this.playedMs = ms;
    this.tell("played", { item: data.item, ms, level: data.level });
  }

  tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

/** Any audio file that the browser can read as PCM16; throws a PlainError. */
export async function decodeFile(file, maxSeconds) {
  const context = new OfflineAudioContext(1, 1, RATE);
  let decoded;
  try {
    decoded = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new PlainError(`${file.name} holds no sound that this browser can read.`);
  }
  if (decoded.duration > maxSeconds) {
    throw new PlainError(
      `${file.name} is ${Math.round(decoded.duration)} s long; a turn may have ${maxSeconds} s. ` +
        "Cut it, or use the tab Transcribe, which takes any length.",
    );
  }
  const mixed = new Float32Array(decoded.length);
  for (let c = 0; c < decoded.numberOfChannels; c++) {
    decoded.getChannelData(c).forEach((x, i) => (mixed[i] += x / decoded.numberOfChannels));
  }
  return Int16Array.from(mixed, (x) => Math.max(-1, Math.min(1, x)) * 32767);
}

export function toBase64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return btoa(text);
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

export function joined(pieces) {
  const whole = new Int16Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.length;
  }
  return whole;
}
