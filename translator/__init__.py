"""The HTTP translator: OpenAI JSON and server-sent events on one side, gRPC on the other."""
