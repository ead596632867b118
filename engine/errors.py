"""What can go wrong in the engine.

EngineError
├── ModelLoadError        the model's files cannot be served
├── AdapterError          a LoRA adapter cannot be used with this model
├── RequestTooLargeError  the request can never fit the KV cache or the context
└── ChannelClosedError    the peer process is gone
"""


class EngineError(Exception):
    """Base of the errors that the engine raises on purpose."""


class ModelLoadError(EngineError):
    """The model's config or weights are missing, malformed or not supported; the text says which."""


class AdapterError(EngineError):
    """The adapter's config or weights are missing, malformed, not supported or not for this model."""


class RequestTooLargeError(EngineError):
    """The request can never be run by this engine, however long it waits."""


class ChannelClosedError(EngineError):
    """The process at the other end of the channel has gone."""
