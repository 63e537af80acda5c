// OpenAI realtime protocol over one WebSocket of this page's own origin.

import { PlainError, toBase64 } from "./audio.js";

const PIECE = 24000; // samples of one append

/** One session: events arrive as CustomEvent of their type; "closed" when it is over. */
export class Realtime extends EventTarget {
  constructor() {
    super();
    this.socket = null;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Open a session; throws a PlainError. */
  async open(model) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const address = `${scheme}//${location.host}/v1/realtime?model=${encodeURIComponent(model)}`;
    const socket = new WebSocket(address);
    this.socket = socket;
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = async () => reject(new PlainError(await refusal()));
    });
    socket.onerror = null;
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      this.dispatchEvent(new CustomEvent("event", { detail: event }));
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.dispatchEvent(new CustomEvent("closed", { detail: { code, reason } }));
    };
  }

  send(type, fields = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  append(pcm) {
    for (let i = 0; i < pcm.length; i += PIECE) {
      this.send("input_audio_buffer.append", { audio: toBase64(pcm.subarray(i, i + PIECE)) });
    }
  }

  close() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }
}

/** Why a session was not opened: browsers do not show the server's answer. */
async function refusal() {
  let status;
  try {
    status = await (await fetch("/voice/status")).json();
  } catch {
    return "This page's server does not answer. Start stepaudio-webui again, then try again.";
  }
  if (status.chat_problem || status.problem) return status.chat_problem || status.problem;
  if (status.chat === "loading") return "The model is still being loaded. Try again in a moment.";
  return "The model takes no new conversation; all places may be taken. Try again in a moment.";
}
