// What the page's server knows of the model; asked again until it is known, and then now and then.

const SOON_MS = 700;
const LATER_MS = 15_000;
const UNKNOWN = { model: "", place: "", voices: [], tools: [], personas: {}, modes: [], problem: "" };
const GONE =
  "This page's server does not answer. Start stepaudio-webui again; the page will notice.";

class ModelStatus extends EventTarget {
  constructor() {
    super();
    this.value = null;
    this.ask();
  }

  async ask() {
    let value;
    try {
      value = await (await fetch("/voice/status")).json();
    } catch {
      value = { ...(this.value ?? UNKNOWN), state: "failed", problem: GONE, chat: "failed", chat_problem: GONE };
    }
    const hasChanged = JSON.stringify(value) !== JSON.stringify(this.value);
    this.value = value;
    if (hasChanged) this.dispatchEvent(new Event("change"));
    const isSettled = value.state === "ready" && value.chat !== "loading";
    setTimeout(() => this.ask(), isSettled ? LATER_MS : SOON_MS);
  }
}

export const modelStatus = new ModelStatus();
