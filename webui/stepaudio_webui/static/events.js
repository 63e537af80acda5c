// What the server says, and what it means for a conversation.

import { RATE, fromBase64 } from "./audio.js";

export const SILENCE_MS = 500; // that ends a turn of the user
// They tell of races between page and server that the user need not know of.
const HARMLESS = new Set([
  "response_cancel_not_active",
  "item_truncate_invalid_item_id",
  "input_audio_buffer_commit_empty",
]);
const TRANSCRIPTION = "conversation.item.input_audio_transcription";

/** Handlers by the type of the event; each gets the conversation and the event. */
export const HANDLERS = {
  "input_audio_buffer.speech_started"(talk, { item_id, audio_start_ms }) {
    talk.silence();
    talk.turns.dropUnsaid();
    talk.turns.add({ role: "user", item: item_id, start: (audio_start_ms * RATE) / 1000 });
    talk.isHearing = true;
    talk.settle();
  },
  "input_audio_buffer.speech_stopped"(talk, { item_id, audio_end_ms }) {
    const turn = talk.turns.of(item_id);
    const end = (audio_end_ms * RATE) / 1000;
    if (turn) turn.pcm = [talk.recorded(turn.start, end)];
    talk.await(talk.timeOf(end - (SILENCE_MS * RATE) / 1000));
  },
  "input_audio_buffer.committed"(talk, { item_id }) {
    const turn = talk.turns.last("user");
    if (turn?.state === "live") turn.item ??= item_id;
  },
  [`${TRANSCRIPTION}.delta`](talk, { item_id, delta }) {
    talk.turns.write(item_id, (text) => text + delta);
  },
  [`${TRANSCRIPTION}.completed`](talk, { item_id, transcript }) {
    talk.turns.write(item_id, () => transcript || "(nothing was understood)", "done");
  },
  [`${TRANSCRIPTION}.failed`](talk, { item_id }) {
    talk.turns.write(item_id, () => "(this could not be written down)", "failed");
  },
  "response.created"(talk, { response }) {
    talk.response = response.id;
    talk.calls = [];
    talk.settle();
  },
  "response.output_item.added"(talk, { item }) {
    const { id, type, name } = item;
    if (type === "message") talk.turns.add({ role: "assistant", item: id });
    else talk.turns.add({ role: "tool", item: id, name, arguments: "" });
  },
  "response.output_audio_transcript.delta"(talk, { item_id, delta }) {
    talk.turns.write(item_id, (text) => text + delta);
  },
  "response.output_text.delta"(talk, { item_id, delta }) {
    talk.turns.write(item_id, (text) => text + delta);
  },
  "response.output_audio.delta"(talk, { item_id, delta }) {
    const turn = talk.turns.of(item_id);
    if (!turn || turn.state === "interrupted") return;
    const pcm = fromBase64(delta);
    turn.pcm.push(pcm);
    talk.player.push(item_id, pcm);
  },
  "response.function_call_arguments.done"(talk, event) {
    const turn = talk.turns.of(event.item_id);
    if (turn) talk.calls.push(runTool(talk, turn, event));
  },
  async "response.done"(talk, { response }) {
    talk.response = null;
    talk.turns.finish(response);
    if (response.status === "failed") {
      talk.tell(response.status_details?.error?.message ?? "The answer could not be made.");
    }
    const calls = talk.calls.splice(0);
    const goesOn = calls.length && response.status === "completed";
    if (!goesOn && !talk.player.isBusy && response.status !== "cancelled") talk.answered = null;
    talk.settle();
    if (!goesOn) return;
    for (const item of await Promise.all(calls)) talk.link.send("conversation.item.create", { item });
    talk.link.send("response.create");
  },
  error(talk, { error }) {
    if (!HARMLESS.has(error.code)) {
      talk.tell(error.message);
      if (!talk.response) talk.answered = null;
    }
    talk.settle();
  },
};

/** Let the page's server do what the model asks for; the result is an item of the conversation. */
async function runTool(talk, turn, { call_id, name, arguments: text }) {
  turn.name = name;
  turn.arguments = text;
  talk.changed();
  let result;
  try {
    const answer = await fetch("/voice/tool", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name, arguments: JSON.parse(text || "{}") }),
    });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    result = await answer.json();
  } catch (error) {
    result = { text: `error: the tool did not answer (${error.message})`, failed: true };
  }
  if (result.rings_in_s) setTimeout(() => talk.ring(result.text), result.rings_in_s * 1000);
  turn.text = result.text;
  turn.state = result.failed ? "failed" : "done";
  talk.changed();
  return { type: "function_call_output", call_id, output: result.text };
}
