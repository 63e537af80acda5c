// One conversation: what was said by whom, what is going on now. No document in here.

import { Microphone, Player, PlainError, RATE, decodeFile, joined } from "./audio.js";
import { HANDLERS, SILENCE_MS } from "./events.js";
import { Realtime } from "./realtime.js";
import { Turns } from "./turns.js";

const KEPT_CHUNKS = 3000; // of the microphone: two minutes
const MAX_UPLOAD_S = 60;
const MIN_SPEECH_MS = 100; // the server refuses less

/**
 * Fires "change" whenever something is to be shown anew, "level" for meters, "problem" for errors.
 */
export class Conversation extends EventTarget {
  constructor(status) {
    super();
    this.status = status;
    this.settings = { persona: "", voice: status.voices[0] ?? "", tools: true, handsFree: true };
    this.turns = new Turns(() => this.changed());
    this.activity = "idle";
    this.player = new Player();
    this.microphone = new Microphone(
      (chunk) => this.onChunk(chunk),
      () => this.attempt(() => this.onLost()),
    );
    this.link = new Realtime();
    this.link.addEventListener("event", ({ detail }) => HANDLERS[detail.type]?.(this, detail));
    this.link.addEventListener("closed", ({ detail }) => this.onClosed(detail));
    this.player.addEventListener("played", ({ detail }) => this.onPlayed(detail));
    this.player.addEventListener("drained", () => this.settle());
    this.player.addEventListener("flushed", ({ detail }) => this.onFlushed(detail));
    this.forget();
  }

  /** What belongs to one session and not to the history. */
  forget() {
    this.sent = 0; // samples of sound since the session began
    this.heard = []; // the last of them: {start, pcm}
    this.response = null; // id of the answer that is being made
    this.answered = null; // since when the user waits, by the clock of the page
    this.interrupted = null; // item whose rest was thrown away
    this.calls = []; // of tools in this answer
    this.isHearing = false; // the user speaks
    this.isHeld = false; // the key of push-to-talk
    this.isMuted = false; // an uploaded recording is being sent
  }

  get isConnected() {
    return this.link.isOpen;
  }

  // ---- what the user does --------------------------------------------------------------------

  /** Begin a session if there is none; the history so far is told again. */
  async connect() {
    if (this.isConnected) return;
    this.connecting ??= this.begin();
    this.settle();
    try {
      await this.connecting;
    } finally {
      this.connecting = null;
      this.settle();
    }
  }

  async begin() {
    await this.player.start();
    this.forget();
    await this.link.open(this.status.model);
    this.configure();
    for (const turn of this.turns.all) this.retell(turn);
  }

  configure() {
    const { persona, voice, tools, handsFree } = this.settings;
    const session = {
      type: "realtime",
      instructions: persona,
      tools: tools ? this.status.tools : [],
      audio: {
        input: { transcription: {}, turn_detection: handsFree ? serverVad() : null },
        output: voice ? { voice } : {},
      },
    };
    this.link.send("session.update", { session });
  }

  retell({ role, text, state }) {
    if (!text || role === "tool" || state === "failed") return;
    const type = role === "user" ? "input_text" : "output_text";
    const item = { type: "message", role, content: [{ type, text }] };
    this.link.send("conversation.item.create", { item });
  }

  /** Change settings; a voice that has spoken can only be changed in a new session. */
  async apply(changes) {
    const needsNew = "voice" in changes && changes.voice !== this.settings.voice;
    Object.assign(this.settings, changes);
    if (!this.isConnected) return;
    if (needsNew && this.turns.all.some(({ role }) => role === "assistant")) {
      this.silence();
      this.link.close();
      await this.connect();
    } else {
      this.configure();
    }
    this.settle();
  }

  async listen() {
    await this.connect();
    await this.microphone.open();
    this.settle();
  }

  async stopListening() {
    await this.microphone.close();
    if (this.settings.handsFree) this.link.send("input_audio_buffer.clear");
    this.isHearing = false;
    this.turns.dropUnsaid();
    this.settle();
  }

  /** The key of push-to-talk goes down. */
  press() {
    if (this.isHeld || !this.microphone.isOpen || !this.isConnected) return;
    this.interrupt();
    this.link.send("input_audio_buffer.clear");
    this.isHeld = this.isHearing = true;
    this.pressedAt = this.sent;
    this.turns.add({ role: "user" });
    this.settle();
  }

  release() {
    if (!this.isHeld) return;
    this.isHeld = this.isHearing = false;
    const turn = this.turns.last("user");
    if (((this.sent - this.pressedAt) / RATE) * 1000 < MIN_SPEECH_MS) {
      this.turns.dropUnsaid();
      return this.settle();
    }
    turn.pcm = [this.recorded(this.pressedAt, this.sent)];
    this.await(performance.now());
    this.link.send("input_audio_buffer.commit");
    this.link.send("response.create");
  }

  async say(text) {
    await this.connect();
    await this.interrupt();
    this.turns.add({ role: "user", text, state: "done" });
    const content = [{ type: "input_text", text }];
    this.link.send("conversation.item.create", { item: { type: "message", role: "user", content } });
    this.await(performance.now());
    this.link.send("response.create");
  }

  /** A recording takes the place of the microphone for one turn. */
  async upload(file) {
    const pcm = await decodeFile(file, MAX_UPLOAD_S);
    await this.connect();
    await this.interrupt();
    this.isMuted = true;
    const session = { type: "realtime", audio: { input: { turn_detection: null } } };
    this.link.send("session.update", { session });
    this.link.send("input_audio_buffer.clear");
    this.turns.add({ role: "user", pcm: [pcm] });
    this.sent += pcm.length;
    this.link.append(pcm);
    this.link.send("input_audio_buffer.commit");
    this.await(performance.now());
    this.link.send("response.create");
    this.isMuted = false;
    this.configure();
  }

  async clear() {
    this.silence();
    const wasOpen = this.isConnected;
    this.link.close();
    this.turns.all = [];
    this.forget();
    this.settle();
    if (wasOpen && this.microphone.isOpen) await this.connect();
  }

  /** A timer that a tool has set is up. */
  async ring(text) {
    this.turns.add({ role: "tool", name: "timer", text: `time is up: ${text}`, state: "done" });
    this.bell ??= new Player();
    await this.bell.start();
    this.bell.push("timer", bell());
  }

  /** Stop an answer that is being made or heard; done when the server knows how much was heard. */
  interrupt() {
    if (this.response) this.link.send("response.cancel");
    return this.silence();
  }

  /** Stop the loudspeaker at once; the server is told how much was heard, see `onFlushed`. */
  silence() {
    const turn = this.turns.last("assistant");
    // An answer that goes on may have nothing to play for a moment.
    if (!turn || !(this.player.isBusy || turn.state === "live")) return Promise.resolve();
    this.interrupted = turn.item;
    turn.state = "interrupted";
    const told = new Promise((resolve) => {
      this.player.addEventListener("flushed", resolve, { once: true });
    });
    this.player.flush();
    this.changed();
    return told;
  }

  // ---- sound ---------------------------------------------------------------------------------

  onChunk({ pcm, level }) {
    this.dispatchEvent(new CustomEvent("level", { detail: { mine: level } }));
    const isWanted = this.settings.handsFree || this.isHeld;
    if (!this.isConnected || this.isMuted || !isWanted) return;
    this.heard.push({ start: this.sent, pcm });
    if (this.heard.length > KEPT_CHUNKS) this.heard.shift();
    this.sent += pcm.length;
    this.sentAt = performance.now();
    this.link.append(pcm);
  }

  /** The microphone was unplugged, or taken away. */
  async onLost() {
    await this.stopListening();
    throw new PlainError("The microphone is gone. Plug it in and press Talk, or type.");
  }

  /** Sound of the microphone between two samples of the session. */
  recorded(from, to) {
    const pieces = this.heard
      .filter(({ start, pcm }) => start < to && start + pcm.length > from)
      .map(({ start, pcm }) => pcm.subarray(Math.max(0, from - start), Math.max(0, to - start)));
    return joined(pieces);
  }

  /** When a sample of the session was recorded, by the clock of the page. */
  timeOf(sample) {
    return this.sentAt - ((this.sent - sample) / RATE) * 1000;
  }

  onPlayed({ item, ms, level }) {
    this.dispatchEvent(new CustomEvent("level", { detail: { theirs: level } }));
    const turn = this.turns.of(item);
    if (!turn) return;
    const isFirst = turn.heardMs === 0 && ms > 0;
    turn.heardMs = ms;
    turn.loudness = Math.max(turn.loudness ?? 0, level);
    if (!isFirst) return;
    if (this.answered !== null) turn.latencyMs = Math.round(performance.now() - this.answered);
    this.answered = null;
    this.settle();
  }

  onFlushed({ item, ms }) {
    if (this.interrupted === null) return;
    const heardMs = item === this.interrupted ? ms : 0;
    this.link.send("conversation.item.truncate", {
      item_id: this.interrupted,
      content_index: 0,
      audio_end_ms: heardMs,
    });
    const turn = this.turns.of(this.interrupted);
    if (turn) turn.heardMs = heardMs;
    this.interrupted = null;
    this.changed();
  }

  onClosed({ reason }) {
    this.silence();
    this.microphone.close();
    this.forget();
    this.turns.end();
    this.settle();
    const why = reason ? ` (${reason})` : "";
    this.tell(
      `The connection to the model is gone${why}. What was said is kept: talk or type to go on.`,
    );
  }

  // ---- what is going on ----------------------------------------------------------------------

  /** The user has finished, at this time of the page's clock. */
  await(since) {
    this.isHearing = false;
    this.answered = since;
    this.settle();
  }

  /** Find out what is going on. */
  settle() {
    this.activity = this.connecting
      ? "connecting"
      : this.isHearing
        ? "hearing"
        : this.player.isBusy
          ? "speaking"
          : this.response || this.answered !== null
            ? "thinking"
            : this.microphone.isOpen
              ? "listening"
              : "idle";
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  tell(message) {
    this.dispatchEvent(new CustomEvent("problem", { detail: message }));
  }

  /** Run something the user asked for; what goes wrong is told in plain words. */
  async attempt(action) {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof PlainError)) console.error(error);
      this.tell(error instanceof PlainError ? error.message : `That did not work: ${error.message}`);
      this.settle();
    }
  }
}

/** Two tones, PCM16. */
function bell() {
  const tone = (hertz, i) => Math.sin((2 * Math.PI * hertz * i) / RATE) * Math.exp(-i / (0.15 * RATE));
  return Int16Array.from({ length: RATE }, (_, i) =>
    i < RATE / 2 ? 9000 * tone(880, i) : 9000 * tone(660, i - RATE / 2),
  );
}

function serverVad() {
  return { type: "server_vad", silence_duration_ms: SILENCE_MS };
}
