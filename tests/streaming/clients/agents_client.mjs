// Converses with the unchanged npm package `@openai/agents-realtime`, which acts on an event only
// if it fits its strict schema; its key is an ephemeral one in a sub-protocol where the client is
// a browser, and a header in Node.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const [url, apiKey, modules] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'x.js'));
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { RealtimeAgent, RealtimeSession, OpenAIRealtimeWebSocket, tool } = await load(
  '@openai/agents-realtime',
);
const { z } = await load('zod');

const seen = { audioBytes: 0, tools: [], errors: [], interrupted: false, usage: 0 };
const weather = tool({
  name: 'weather',
  description: 'Tell the weather.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `rain in ${city}`,
});
const agent = new RealtimeAgent({ name: 'Assistant', instructions: 'be brief', tools: [weather] });
const transport = new OpenAIRealtimeWebSocket({ url });
const session = new RealtimeSession(agent, { transport, model: 'gpt-realtime' });

const loud = new Int16Array(24 * 400).fill(9000).buffer;
const silence = new Int16Array(24 * 900).buffer;
let isLast = false;
const texts = () =>
  session.history.map((item) => (item.content ?? []).map((part) => part.transcript ?? part.text ?? null));
const finished = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`timeout ${JSON.stringify(seen)}`)), 150000).unref();
  session.on('error', (error) => seen.errors.push(JSON.stringify(error.error ?? error)));
  session.on('audio', (event) => {
    seen.audioBytes += event.data.byteLength;
    if (isLast && !seen.interrupted) session.sendAudio(loud);
  });
  session.on('audio_interrupted', () => {
    seen.interrupted = true;
    seen.usage = session.usage.totalTokens;
    resolve();
  });
  session.on('agent_tool_end', (context, agent, tool, result) => seen.tools.push(result));
  session.on('agent_end', (context, agent, output) => {
    if (output === 'Hello there.') session.sendMessage('what is the weather?');
    if (output === 'Rain in Ulm.') {
      seen.history = texts();
      isLast = true;
      session.sendMessage('tell me everything');
    }
  });
});
await session.connect({ apiKey });
session.sendAudio(loud);
session.sendAudio(silence);
await finished;
session.close();
console.log(JSON.stringify(seen));
process.exit(0);
