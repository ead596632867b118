// The Vercel AI SDK: its OpenAI provider over responses, chat and completions, and its OpenAI-compatible one.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, isStepCount, streamText, tool } from "ai";
import { MODEL, QUESTION, WEATHER_QUESTION, Weather, baseUrl, run } from "./scene.mjs";

const openai = createOpenAI({ baseURL: `${baseUrl}/v1`, apiKey: "none" });
const compatible = createOpenAICompatible({
  name: "pagewire", baseURL: `${baseUrl}/v1`, includeUsage: true, supportsStructuredOutputs: true,
});
const models = [openai(MODEL), openai.chat(MODEL), compatible(MODEL)];
const options = { temperature: 0, maxOutputTokens: 48, maxRetries: 0 };
const oneCall = { openai: { parallelToolCalls: false }, pagewire: { parallel_tool_calls: false } };
const tools = {
  get_weather: tool({
    description: "The weather of a city.",
    inputSchema: Weather,
    execute: async ({ city }) => `It will be sunny in ${city}.`,
  }),
};

async function chatAndStream() {
  for (const model of models) {
    const whole = await generateText({ model, prompt: QUESTION, ...options });
    assert.match(whole.text, /Paris/);
    const stream = streamText({ model, prompt: QUESTION, ...options });
    let streamed = "";
    for await (const delta of stream.textStream) streamed += delta;
    assert.equal(streamed, whole.text);
    assert.ok(whole.usage.totalTokens > 0);
    assert.equal((await stream.usage).totalTokens, whole.usage.totalTokens);
  }
}

// A forced call, its result, and the answer after it; the same call from a stream.
async function toolRounds() {
  for (const model of models) {
    const call = {
      model, prompt: WEATHER_QUESTION, tools, toolChoice: "required", providerOptions: oneCall, ...options,
    };
    const whole = await generateText({
      ...call,
      stopWhen: isStepCount(2),
      prepareStep: ({ stepNumber }) => (stepNumber > 0 ? { toolChoice: "none" } : {}),
    });
    const [first] = whole.steps;
    Weather.parse(first.toolCalls[0].input);
    assert.match(first.toolResults[0].output, /sunny/);
    assert.ok(whole.text);
    const [streamed] = await streamText(call).toolCalls;
    assert.deepEqual(streamed.input, first.toolCalls[0].input);
  }
}

async function structuredOutput() {
  for (const model of models) {
    const call = { model, prompt: WEATHER_QUESTION, output: Output.object({ schema: Weather }), ...options };
    const whole = await generateText(call);
    Weather.parse(whole.output);
    const stream = streamText(call);
    let last;
    for await (const partial of stream.partialOutputStream) last = partial;
    assert.deepEqual(last, whole.output);
  }
}

async function completions() {
  for (const model of [openai.completion(MODEL), compatible.completionModel(MODEL)]) {
    const call = { model, prompt: QUESTION, ...options, maxOutputTokens: 8 };
    const { text } = await generateText(call);
    assert.ok(text);
    assert.equal(await streamText(call).text, text);
  }
}

async function embeddings() {
  for (const model of [openai.embedding(MODEL), compatible.embeddingModel(MODEL)]) {
    const { embeddings, usage } = await embedMany({ model, values: ["One text", "Another text"] });
    assert.equal(embeddings[0].length, embeddings[1].length);
    assert.ok(usage.tokens > 0);
  }
}

async function errors() {
  for (const provider of [openai, openai.chat, compatible]) {
    await assert.rejects(
      generateText({ model: provider("no-such-model"), prompt: QUESTION, ...options }),
      (error) => APICallError.isInstance(error) && error.statusCode === 404 && /no-such-model/.test(error.message),
    );
    await assert.rejects(
      generateText({ model: provider(MODEL), prompt: QUESTION, ...options, temperature: 3 }),
      (error) => APICallError.isInstance(error) && error.statusCode === 400 && /temperature/.test(error.message),
    );
  }
}

await run(chatAndStream, toolRounds, structuredOutput, completions, embeddings, errors);
