// <stepaudio-voice>: the tab "Voice chat".

import { Conversation } from "./conversation.js";
import { Replay, asJson, asWav, download } from "./history.js";
import { Log } from "./log.js";
import { modelStatus } from "./status.js";

const WORDS = {
  loading: ["The model is being loaded", "This takes a few seconds."],
  failed: ["No conversation", ""],
  idle: ["Ready", "Press Talk and speak, or type below."],
  connecting: ["Connecting", ""],
  listening: ["Listening", "Just speak. You can interrupt the answer at any time."],
  hearing: ["Hearing you", ""],
  thinking: ["Thinking", ""],
  speaking: ["Speaking", "Speak to interrupt."],
};
const PUSH_HINT = "Hold the button, or the space bar on it, while you speak.";

const PAGE = `
<div class="talk">
  <section class="stage" aria-label="Conversation">
    <div class="problem" role="alert" hidden><p></p><button type="button" aria-label="Close">×</button></div>
    <div class="now">
      <div class="orb" aria-hidden="true"><i></i><i></i><b></b></div>
      <div role="status" aria-live="polite"><strong class="state"></strong><span class="hint"></span></div>
      <div class="controls">
        <button type="button" class="primary mic" disabled>Talk</button>
        <button type="button" class="hold" hidden>Hold to speak</button>
        <button type="button" class="stop" hidden>Stop answer</button>
      </div>
    </div>
    <ol class="log" role="log" aria-label="What was said" tabindex="0"></ol>
    <form class="composer">
      <input name="text" type="text" autocomplete="off" maxlength="500" placeholder="Type instead of speaking"
        aria-label="Your message">
      <button type="submit" class="primary" disabled>Send</button>
      <button type="button" class="upload" disabled title="A recording takes the place of the microphone">Upload audio</button>
      <input name="file" type="file" accept="audio/*,video/*" hidden aria-label="Recording">
    </form>
  </section>
  <aside class="side" aria-label="Settings">
    <fieldset><legend>Turns</legend>
      <label class="choice"><input type="radio" name="mode" value="free" checked> Hands-free</label>
      <label class="choice"><input type="radio" name="mode" value="push"> Push to talk</label>
    </fieldset>
    <label>Voice <select name="voice"></select></label>
    <label>Persona <select name="preset"></select></label>
    <label class="system">System text <textarea name="persona" rows="3" maxlength="2000"></textarea></label>
    <label class="choice"><input type="checkbox" name="tools" checked> Tools <span class="tools"></span></label>
    <fieldset class="history"><legend>History</legend>
      <button type="button" name="replay">Replay</button>
      <button type="button" name="wav">Audio</button>
      <button type="button" name="json">JSON</button>
      <button type="button" name="clear">Clear</button>
    </fieldset>
  </aside>
</div>`;

class VoiceChat extends HTMLElement {
  connectedCallback() {
    if (this.conversation) return;
    this.innerHTML = PAGE;
    this.one = (selector) => this.querySelector(selector);
    this.replay = new Replay();
    this.start(new Conversation({ model: "", voices: [], tools: [], personas: {}, chat: "loading" }));
    this.bind();
    modelStatus.addEventListener("change", () => this.learn(modelStatus.value));
    if (modelStatus.value) this.learn(modelStatus.value);
  }

  start(conversation) {
    this.conversation = conversation;
    this.log = new Log(this.one(".log"), (turn) => this.playAgain(turn));
    conversation.addEventListener("change", () => this.plan());
    conversation.addEventListener("level", ({ detail }) => this.meter(detail));
    conversation.addEventListener("problem", ({ detail }) => this.complain(detail));
    this.replay.addEventListener("change", () => this.plan());
  }

  /** The model's state has changed. */
  learn(status) {
    const known = this.conversation.status;
    this.conversation.status = status;
    if (status.chat === "failed") this.complain(status.chat_problem || status.problem);
    if (status.chat === "ready" && known.chat !== "ready") {
      this.complain("");
      this.offer(status);
    }
    this.plan();
  }

  /** Fill in what can be chosen; what was chosen before stays. */
  offer({ voices, tools, personas }) {
    const voice = this.one("[name=voice]");
    if (voice.options.length) return;
    fill(voice, voices);
    voice.disabled = !voices.length;
    fill(this.one("[name=preset]"), Object.keys(personas));
    this.one(".tools").textContent = `(${tools.map(({ name }) => name).join(", ")})`;
    this.conversation.settings.voice = voices[0] ?? "";
    this.choosePersona();
  }

  // ---- controls ------------------------------------------------------------------------------

  bind() {
    const attempt = (action) => this.conversation.attempt(action);
    this.one(".mic").onclick = () => attempt(() => this.toggleMicrophone());
    this.one(".stop").onclick = () => attempt(() => this.conversation.interrupt());
    this.one(".problem button").onclick = () => this.complain("");
    this.bindHold(this.one(".hold"));
    this.bindComposer(attempt);
    this.bindSettings(attempt);
    this.bindHistory(attempt);
  }

  async toggleMicrophone() {
    this.complain("");
    this.replay.stop();
    if (this.conversation.microphone.isOpen) await this.conversation.stopListening();
    else await this.conversation.listen();
  }

  bindHold(button) {
    const isKey = ({ key }) => key === " " || key === "Enter";
    button.onpointerdown = (event) => {
      button.setPointerCapture(event.pointerId);
      this.conversation.press();
    };
    button.onpointerup = button.onpointercancel = () => this.conversation.release();
    button.onkeydown = (event) => {
      if (!isKey(event)) return;
      event.preventDefault();
      if (!event.repeat) this.conversation.press();
    };
    button.onkeyup = (event) => isKey(event) && this.conversation.release();
    button.onblur = () => this.conversation.release();
    button.oncontextmenu = (event) => event.preventDefault();
  }

  bindComposer(attempt) {
    const { text, file } = this.one(".composer").elements;
    this.one(".composer").onsubmit = (event) => {
      event.preventDefault();
      const words = text.value.trim();
      if (!words) return;
      text.value = "";
      this.complain("");
      attempt(() => this.conversation.say(words));
    };
    this.one(".upload").onclick = () => file.click();
    file.onchange = () => {
      const [chosen] = file.files;
      file.value = "";
      this.complain("");
      if (chosen) attempt(() => this.conversation.upload(chosen));
    };
  }

  bindSettings(attempt) {
    const apply = (changes) => attempt(() => this.conversation.apply(changes));
    this.one("[name=voice]").onchange = ({ target }) => apply({ voice: target.value });
    this.one("[name=preset]").onchange = () => apply(this.choosePersona());
    this.one("[name=persona]").onchange = ({ target }) => apply({ persona: target.value.trim() });
    this.one("[name=tools]").onchange = ({ target }) => apply({ tools: target.checked });
    for (const radio of this.querySelectorAll("[name=mode]")) {
      radio.onchange = () => apply({ handsFree: radio.value === "free" });
    }
  }

  choosePersona() {
    const persona = this.conversation.status.personas[this.one("[name=preset]").value] ?? "";
    this.one("[name=persona]").value = persona;
    this.conversation.settings.persona = persona;
    return { persona };
  }

  bindHistory(attempt) {
    const turns = () => this.conversation.turns.all;
    const name = () => `conversation-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}`;
    this.one("[name=replay]").onclick = () =>
      attempt(() => (this.replay.isOn ? this.replay.stop() : this.replay.play(turns())));
    this.one("[name=wav]").onclick = () => download(asWav(turns()), `${name()}.wav`);
    this.one("[name=json]").onclick = () => {
      const { settings, status } = this.conversation;
      download(asJson(turns(), settings, status.model), `${name()}.json`);
    };
    this.one("[name=clear]").onclick = () => {
      this.replay.stop();
      attempt(() => this.conversation.clear());
    };
  }

  playAgain(turn) {
    const isPlaying = this.replay.playing === turn;
    this.conversation.attempt(() => (isPlaying ? this.replay.stop() : this.replay.play([turn])));
  }

  // ---- what is shown -------------------------------------------------------------------------

  /** Show everything anew, once a frame. */
  plan() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.show();
    });
  }

  show() {
    const { conversation } = this;
    const { status, microphone, turns } = conversation;
    const canTalk = status.chat === "ready";
    const activity = canTalk ? conversation.activity : status.chat;
    this.dataset.activity = activity;
    this.describe(activity);
    this.log.show(turns.all, this.replay.playing);
    const { handsFree } = conversation.settings;
    this.one(".mic").disabled = !canTalk || activity === "connecting";
    this.one(".mic").textContent = microphone.isOpen ? "Microphone off" : "Talk";
    this.one(".mic").classList.toggle("primary", !microphone.isOpen);
    this.one(".hold").hidden = !microphone.isOpen || handsFree;
    this.one(".stop").hidden = activity !== "speaking" && activity !== "thinking";
    this.one(".composer .primary").disabled = this.one(".upload").disabled = !canTalk;
    for (const button of this.querySelectorAll(".history button")) button.disabled = !turns.all.length;
    this.one("[name=replay]").textContent = this.replay.isOn ? "Stop" : "Replay";
  }

  describe(activity) {
    const [state, hint] = WORDS[activity];
    const { microphone, settings } = this.conversation;
    const isPush = microphone.isOpen && !settings.handsFree;
    put(this.one(".state"), isPush && activity === "listening" ? "Ready to hear you" : state);
    put(this.one(".hint"), isPush && activity === "listening" ? PUSH_HINT : hint);
  }

  meter({ mine, theirs }) {
    const level = Math.min(1, (mine ?? theirs) * 6);
    const name = mine === undefined ? "--theirs" : "--mine";
    this.one(".orb").style.setProperty(name, level.toFixed(3));
  }

  complain(message) {
    this.one(".problem").hidden = !message;
    put(this.one(".problem p"), message);
  }
}

function fill(select, values) {
  select.replaceChildren(...values.map((value) => new Option(value, value)));
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

customElements.define("stepaudio-voice", VoiceChat);
