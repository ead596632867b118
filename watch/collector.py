"""An OpenTelemetry collector as far as it is there: what does not reach it is lost, and that is said once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

_EXPORTERS = "opentelemetry.exporter"
"""They log a line for each attempt that fails."""
_QUEUE = "opentelemetry.sdk._shared_internal"
"""It logs one for spans that find it full."""


class WatchedExporter(SpanExporter):
    """Logs when a collector begins to take no spans, and when it takes them again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        """From here on OpenTelemetry's own words on failed exports are kept from the log."""
        self.num_lost = 0
        """Spans that were to be sent since the collector was last reached."""
        self._exporter = exporter
        self._address = urlsplit(endpoint).netloc.rpartition("@")[2]
        self._last_words = _LastWords(logging.WARNING)
        for name in (_EXPORTERS, _QUEUE):
            talkative = logging.getLogger(name)
            talkative.handlers, talkative.propagate = [self._last_words], False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. It takes as long as the exporter has patience."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self.num_lost:
                text = "the collector at %s takes spans again; at least %d were lost"
                logger.warning(text, self._address, self.num_lost)
            self.num_lost = 0
        else:
            if not self.num_lost:
                text = "the collector at %s takes no spans; they are lost until it does: %s"
                logger.warning(text, self._address, self._last_words.text)
            self.num_lost += len(spans)
        return result

    def shutdown(self) -> None:
        """Send nothing any more."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait for what is being sent."""
        return self._exporter.force_flush(timeout_millis)


class _LastWords(logging.Handler):
    """Keeps the exporters' last line, which says why an export failed. Bugs are passed on."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            logger.handle(record)
        elif record.name.startswith(_EXPORTERS):
            self.text = record.getMessage()
