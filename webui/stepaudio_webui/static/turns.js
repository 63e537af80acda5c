// The history: who said what, as text and as sound.

/**
 * Turns in order. A turn has: role ("user", "assistant", "tool"), item (its id at the server), text,
 * pcm (PCM16 pieces at 24 kHz), latencyMs (until its first sound was heard), heardMs, and state
 * ("live", "done", "interrupted", "failed"); tools also have name and arguments.
 */
export class Turns {
  constructor(onChange) {
    this.all = [];
    this.onChange = onChange;
  }

  add(turn) {
    const at = new Date().toISOString();
    const empty = { at, text: "", pcm: [], heardMs: 0, latencyMs: null, state: "live" };
    this.all.push({ ...empty, ...turn });
    this.onChange();
  }

  of(item) {
    return this.all.find((turn) => turn.item === item);
  }

  last(role) {
    return this.all.findLast((turn) => turn.role === role);
  }

  write(item, change, state) {
    const turn = this.of(item);
    if (!turn) return;
    turn.text = change(turn.text);
    if (state) turn.state = state;
    this.onChange();
  }

  /** An answer is complete; what it never said or sounded is no turn. */
  finish(response) {
    const states = { completed: "done", failed: "failed" };
    for (const { id } of response.output) {
      const turn = this.of(id);
      if (turn?.state === "live" && turn.role === "assistant") {
        turn.state = states[response.status] ?? "interrupted";
      }
    }
    const isEmpty = ({ role, text, pcm }) => role === "assistant" && !text && !pcm.length;
    this.all = this.all.filter((turn) => turn.state === "live" || !isEmpty(turn));
    this.onChange();
  }

  /** A turn of the user that never came to an end is none. */
  dropUnsaid() {
    const isUnsaid = ({ role, state, text, pcm }) =>
      role === "user" && state === "live" && !text && !pcm.length;
    this.all = this.all.filter((turn) => !isUnsaid(turn));
    this.onChange();
  }

  /** The session is over: nothing goes on. */
  end() {
    this.dropUnsaid();
    for (const turn of this.all) if (turn.state === "live") turn.state = "interrupted";
    this.onChange();
  }
}
