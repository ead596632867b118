"""The console at /: a chat, and a view of the engine, in one page that loads nothing from elsewhere."""
