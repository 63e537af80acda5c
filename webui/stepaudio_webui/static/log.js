// The list of turns on the page; every turn keeps its element, so that focus and scrolling stay.

const NAMES = { user: "You", assistant: "Model", tool: "Tool" };

export class Log {
  constructor(list, onReplay) {
    this.list = list;
    this.onReplay = onReplay;
    this.rows = new Map();
  }

  show(turns, playing) {
    const isAtEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 48;
    for (const [turn, row] of this.rows) {
      if (turns.includes(turn)) continue;
      row.remove();
      this.rows.delete(turn);
    }
    const sizeBefore = this.rows.size;
    for (const turn of turns) this.write(this.rowOf(turn), turn, playing);
    if (isAtEnd || this.rows.size > sizeBefore) this.list.scrollTop = this.list.scrollHeight;
  }

  rowOf(turn) {
    let row = this.rows.get(turn);
    if (row) return row;
    row = document.createElement("li");
    row.className = `turn ${turn.role}`;
    row.innerHTML =
      '<span class="who"></span><div class="said"></div>' +
      '<span class="facts"></span><button type="button" class="again" hidden></button>';
    row.querySelector(".again").onclick = () => this.onReplay(turn);
    this.rows.set(turn, row);
    this.list.append(row);
    return row;
  }

  write(row, turn, playing) {
    row.dataset.state = turn.state;
    put(row.querySelector(".who"), turn.role === "tool" ? `Tool · ${turn.name}` : NAMES[turn.role]);
    put(row.querySelector(".said"), said(turn));
    put(row.querySelector(".facts"), facts(turn));
    const again = row.querySelector(".again");
    again.hidden = !turn.pcm.length || turn.state === "live";
    const isPlaying = playing === turn;
    put(again, isPlaying ? "■" : "▶");
    again.setAttribute("aria-label", isPlaying ? "Stop" : "Play this turn again");
  }
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function said({ role, text, arguments: given, state }) {
  if (role !== "tool") return text || (state === "live" ? "…" : "");
  if (given === undefined) return text;
  const call = prettyArguments(given);
  return text ? `${call} → ${text}` : `${call} …`;
}

function prettyArguments(text) {
  try {
    const values = Object.entries(JSON.parse(text || "{}"));
    return `(${values.map(([name, value]) => `${name}: ${value}`).join(", ")})`;
  } catch {
    return `(${text})`;
  }
}

function facts({ role, state, latencyMs, heardMs }) {
  if (role !== "assistant") return "";
  const parts = [];
  if (latencyMs !== null) parts.push(`first sound after ${(latencyMs / 1000).toFixed(1)} s`);
  if (state === "interrupted") parts.push(`interrupted after ${(heardMs / 1000).toFixed(1)} s`);
  if (state === "failed") parts.push("failed");
  return parts.join(" · ");
}
