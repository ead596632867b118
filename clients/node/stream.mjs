// Streams an answer to the terminal: node stream.mjs [MESSAGE] [HOST:PORT]

import process from "node:process";
import { connect, streamChat } from "./pagewire.mjs";

const [message = "What is the capital of France?", target = "127.0.0.1:50051"] = process.argv.slice(2);

const client = connect(target);
try {
  for await (const event of streamChat(client, [{ role: "user", content: message }], { temperature: 0 })) {
    if (event.event === "delta") {
      for (const choice of event.delta.choices) process.stdout.write(choice.text);
    } else if (event.event === "finished") {
      const { usage } = event.finished;
      process.stdout.write("\n");
      process.stderr.write(`${usage.num_prompt_tokens} tokens in, ${usage.num_completion_tokens} out\n`);
    }
  }
} catch (error) {
  if (error.details === undefined) throw error;
  // A failed call: error.code is the gRPC status, error.details its text.
  process.stderr.write(`error ${error.code}: ${error.details}\n`);
  process.exitCode = 1;
} finally {
  client.close();
}
