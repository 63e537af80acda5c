// Converses with the unchanged npm package `openai`, which speaks TLS only.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const [baseURL, apiKey, modules] = process.argv.slice(2);
const load = (name) =>
  import(pathToFileURL(createRequire(path.join(modules, 'x.js')).resolve(name)).href);
const { default: OpenAI } = await load('openai');
const { OpenAIRealtimeWS } = await load('openai/realtime/ws');

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const seen = { audioBytes: 0, transcripts: [], tools: [], errors: [], events: [] };
seen.models = (await client.models.list()).data.slice(0, 1).map((model) => model.id);

const rt = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, client);
const finished = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error('timeout')), 150000).unref();
  rt.on('error', (error) => seen.errors.push(String(error.message)));
  rt.on('event', (event) => seen.events.push(event.type));
  rt.on('session.created', () => {
    rt.send({
      type: 'session.update',
      session: { type: 'realtime', audio: { output: { voice: 'marin' } } },
    });
    rt.send({ type: 'response.create' });
  });
  rt.on('response.output_audio.delta', (event) => {
    seen.audioBytes += Buffer.from(event.delta, 'base64').length;
  });
  rt.on('response.output_audio_transcript.done', (event) => seen.transcripts.push(event.transcript));
  rt.on('response.done', (event) => {
    const call = event.response.output.find((item) => item.type === 'function_call');
    if (call) {
      seen.tools.push(call.arguments);
      rt.send({
        type: 'conversation.item.create',
        item: { type: 'function_call_output', call_id: call.call_id, output: 'rain' },
      });
      rt.send({ type: 'response.create' });
    } else if (seen.tools.length === 0) {
      rt.send({ type: 'response.create' });
    } else {
      resolve();
    }
  });
});
await finished;
rt.close();
console.log(JSON.stringify(seen));
