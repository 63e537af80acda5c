// Audio thread: what the microphone gives, and what is played.

const RATE = 24000; // Hz, of the realtime protocol
const CHUNK = 960; // samples, 40 ms
const TAPS = 16; // on either side of the sample that is computed
const REPORT = 1200; // samples between two reports of the player, 50 ms
const FADE = 96; // samples, 4 ms: stopping does not click

/** Band-limited conversion of a stream to 24 kHz. */
class Resampler {
  constructor(rate) {
    this.step = rate / RATE;
    this.cutoff = Math.min(1, 1 / this.step) * 0.92;
    this.past = new Float32Array(2 * TAPS);
    this.position = TAPS; // in `past` and what follows it
  }

  push(input) {
    if (this.step === 1) return input;
    const samples = new Float32Array(this.past.length + input.length);
    samples.set(this.past);
    samples.set(input, this.past.length);
    const out = [];
    while (this.position + TAPS < samples.length) {
      out.push(this.at(samples, this.position));
      this.position += this.step;
    }
    const kept = samples.length - 2 * TAPS;
    this.past = samples.slice(kept);
    this.position -= kept;
    return Float32Array.from(out);
  }

  at(samples, position) {
    const first = Math.floor(position) - TAPS + 1;
    let sum = 0;
    for (let i = 0; i < 2 * TAPS; i++) {
      const distance = first + i - position;
      const x = Math.PI * distance * this.cutoff;
      const sinc = x === 0 ? 1 : Math.sin(x) / x;
      const hann = 0.5 + 0.5 * Math.cos((Math.PI * distance) / TAPS);
      sum += samples[first + i] * sinc * hann;
    }
    return sum * this.cutoff;
  }
}

function level(samples) {
  let energy = 0;
  for (const sample of samples) energy += sample * sample;
  return Math.sqrt(energy / Math.max(1, samples.length));
}

/** Gives the microphone's sound as PCM16 at 24 kHz, 40 ms at a time. */
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate);
    this.chunk = new Float32Array(CHUNK);
    this.filled = 0;
  }

  process([[input]]) {
    if (!input) return true;
    for (const sample of this.resampler.push(input)) {
      this.chunk[this.filled++] = sample;
      if (this.filled === CHUNK) this.send();
    }
    return true;
  }

  send() {
    this.filled = 0;
    const pcm = Int16Array.from(this.chunk, (x) => Math.max(-1, Math.min(1, x)) * 32767);
    this.port.postMessage({ pcm, level: level(this.chunk) }, [pcm.buffer]);
  }
}

/**
 * Plays pieces of speech in order; each belongs to an item.
 *
 * Messages in: {push: Float32Array, item}, {flush: true}. Messages out: {item, played, level} about
 * what has been heard of an item, {flushed: item, played}, and {drained}, the number of all pieces
 * that have come: there may be more on their way.
 */
class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.offset = 0; // in the first piece
    this.item = null;
    this.played = 0; // samples of the item
    this.unreported = 0;
    this.fade = 0;
    this.taken = 0; // pieces
    this.port.onmessage = ({ data }) => (data.flush ? this.flush() : this.take(data));
  }

  take(piece) {
    this.taken++;
    this.queue.push(piece);
  }

  process(_, [[output]]) {
    let filled = this.fadeOut(output);
    const began = filled;
    while (filled < output.length && this.queue.length) {
      const { push, item } = this.queue[0];
      if (item !== this.item) this.begin(item);
      const size = Math.min(output.length - filled, push.length - this.offset);
      output.set(push.subarray(this.offset, this.offset + size), filled);
      filled += size;
      this.offset += size;
      this.played += size;
      if (this.offset === push.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.account(output, filled - began);
    return true;
  }

  begin(item) {
    this.report(0);
    this.item = item;
    this.played = 0;
    this.unreported = REPORT; // the first sound is told at once
  }

  account(output, size) {
    if (!size) return;
    this.unreported += size;
    if (this.unreported >= REPORT || !this.queue.length) this.report(level(output));
    if (!this.queue.length) this.port.postMessage({ drained: this.taken });
  }

  report(loudness) {
    if (this.item === null || !this.unreported) return;
    this.unreported = 0;
    this.port.postMessage({ item: this.item, played: this.played, level: loudness });
  }

  flush() {
    const next = this.queue.length ? this.queue[0].push.subarray(this.offset) : null;
    this.tail = next ? next.slice(0, FADE) : null;
    this.fade = 0;
    this.queue = [];
    this.offset = 0;
    this.port.postMessage({ flushed: this.item, played: this.played });
    this.item = null;
    this.unreported = 0;
  }

  fadeOut(output) {
    if (!this.tail) return 0;
    let filled = 0;
    while (filled < output.length && this.fade < this.tail.length) {
      output[filled++] = this.tail[this.fade] * (1 - this.fade / this.tail.length);
      this.fade++;
    }
    if (this.fade >= this.tail.length) this.tail = null;
    return filled;
  }
}

registerProcessor("stepaudio-capture", Capture);
registerProcessor("stepaudio-player", Player);
