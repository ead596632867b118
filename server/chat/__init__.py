"""Conversations: from messages to a prompt, and from a model's text back to messages."""
