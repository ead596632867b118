// The contract as a gRPC client: proto/ is read at run time, so nothing is generated.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTO_DIR = fileURLToPath(new URL("../../proto", import.meta.url));
const FILES = ["pagewire/v1/inference.proto", "pagewire/v1/models.proto"];
const DEADLINE_MS = 600_000;

/** Opens a connection. Closing it is the caller's duty. */
export function connect(target) {
  const definition = protoLoader.loadSync(FILES, {
    includeDirs: [PROTO_DIR],
    keepCase: true,
    defaults: true,
    longs: String,
    enums: String,
    oneofs: true,
  });
  const { InferenceService } = grpc.loadPackageDefinition(definition).pagewire.v1;
  return new InferenceService(target, grpc.credentials.createInsecure(), {
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
  });
}

/**
 * Streams the answer to a chat: yields the events of StreamGenerate.
 * Leaving the loop early cancels the call, and the server frees its memory.
 */
export async function* streamChat(client, messages, { maxTokens, temperature } = {}) {
  const spec = {
    chat: { messages: messages.map(({ role, content }) => ({ role, text: content })) },
    stopping: { max_tokens: maxTokens },
    sampling: { temperature },
  };
  const metadata = new grpc.Metadata();
  metadata.set("x-request-id", crypto.randomUUID());
  const call = client.StreamGenerate({ spec }, metadata, { deadline: Date.now() + DEADLINE_MS });
  try {
    yield* call;
  } finally {
    call.cancel();
  }
}
