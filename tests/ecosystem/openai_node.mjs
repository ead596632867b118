// The openai client for Node.js: chat, completions, responses and embeddings.

import assert from "node:assert/strict";
import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { MODEL, QUESTION, WEATHER_QUESTION, Weather, baseUrl, run } from "./scene.mjs";

const client = new OpenAI({ baseURL: `${baseUrl}/v1`, apiKey: "none", maxRetries: 0, timeout: 120_000 });
const chat = { model: MODEL, temperature: 0, max_tokens: 48 };
const response = { model: MODEL, temperature: 0, max_output_tokens: 48 };
const question = [{ role: "user", content: QUESTION }];
const weatherQuestion = [{ role: "user", content: WEATHER_QUESTION }];
const weather = { name: "get_weather", description: "The weather of a city.", parameters: z.toJSONSchema(Weather) };
const tool = { type: "function", function: weather };
const responseTool = { type: "function", strict: true, ...weather };

async function chatAndStream() {
  const whole = await client.chat.completions.create({ messages: question, ...chat });
  const text = whole.choices[0].message.content;
  assert.match(text, /Paris/);
  const stream = client.chat.completions.stream({
    messages: question, stream_options: { include_usage: true }, ...chat,
  });
  let streamed = "";
  stream.on("content", (delta) => (streamed += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(streamed, text);
  assert.equal(final.usage.total_tokens, whole.usage.total_tokens);
}

async function chatTools() {
  for (const choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
    const body = {
      messages: weatherQuestion, tools: [tool], tool_choice: choice, parallel_tool_calls: false, ...chat,
    };
    const whole = await client.chat.completions.create(body);
    const [call] = whole.choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    Weather.parse(JSON.parse(call.function.arguments));
    const final = await client.chat.completions.stream(body).finalChatCompletion();
    assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
    const answer = await client.chat.completions.create({
      messages: [
        ...weatherQuestion,
        whole.choices[0].message,
        { role: "tool", tool_call_id: call.id, content: "Sunny." },
      ],
      tools: [tool], tool_choice: "none", ...chat, max_tokens: 16,
    });
    assert.ok(answer.choices[0].message.content);
  }
}

async function chatStructuredOutput() {
  const body = { messages: weatherQuestion, response_format: zodResponseFormat(Weather, "weather"), ...chat };
  const whole = await client.chat.completions.parse(body);
  Weather.parse(whole.choices[0].message.parsed);
  const final = await client.chat.completions.stream(body).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.parsed, whole.choices[0].message.parsed);
}

async function completions() {
  const body = { model: MODEL, prompt: "One, two,", max_tokens: 8, temperature: 0 };
  const text = (await client.completions.create(body)).choices[0].text;
  let streamed = "";
  for await (const chunk of await client.completions.create({ stream: true, ...body })) {
    streamed += chunk.choices[0].text;
  }
  assert.ok(text);
  assert.equal(streamed, text);
}

async function responseAndStream() {
  const whole = await client.responses.create({ input: QUESTION, ...response });
  assert.match(whole.output_text, /Paris/);
  const stream = client.responses.stream({ input: QUESTION, ...response });
  let streamed = "";
  stream.on("response.output_text.delta", (event) => (streamed += event.delta));
  const final = await stream.finalResponse();
  assert.equal(streamed, whole.output_text);
  assert.deepEqual(final.usage, whole.usage);
}

async function responseTools() {
  const body = { tools: [responseTool], ...response };
  const whole = await client.responses.create({
    input: WEATHER_QUESTION, tool_choice: "required", parallel_tool_calls: false, ...body,
  });
  const [call] = whole.output;
  Weather.parse(JSON.parse(call.arguments));
  const answer = await client.responses.create({
    input: [{ type: "function_call_output", call_id: call.call_id, output: "Sunny." }],
    previous_response_id: whole.id, tool_choice: "none", ...body, max_output_tokens: 16,
  });
  assert.ok(answer.output_text);
}

async function responseStructuredOutput() {
  const parsed = await client.responses.parse({
    input: WEATHER_QUESTION, text: { format: zodTextFormat(Weather, "weather") }, ...response,
  });
  Weather.parse(parsed.output_parsed);
}

// The client asks for base64 by itself, and decodes it.
async function embeddings() {
  const encoded = await client.embeddings.create({ model: MODEL, input: ["One text", "Another text"] });
  const floats = await client.embeddings.create({ model: MODEL, input: "One text", encoding_format: "float" });
  assert.ok(floats.data[0].embedding.length > 0);
  assert.equal(encoded.data[1].embedding.length, floats.data[0].embedding.length);
}

async function modelsAndErrors() {
  const listed = await client.models.list();
  assert.ok(listed.data.some((model) => model.id === MODEL));
  await assert.rejects(
    client.chat.completions.create({ messages: question, ...chat, model: "no-such-model" }),
    (error) => error instanceof NotFoundError && error.code === "model_not_found",
  );
  await assert.rejects(
    client.chat.completions.create({ messages: question, ...chat, temperature: 3 }),
    (error) => error instanceof BadRequestError && error.param === "temperature",
  );
}

await run(
  chatAndStream, chatTools, chatStructuredOutput, completions,
  responseAndStream, responseTools, responseStructuredOutput, embeddings, modelsAndErrors,
);
