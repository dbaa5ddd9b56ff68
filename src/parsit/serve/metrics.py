"""Numbers for Prometheus, in a registry of the server's own."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """What is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("parsit_requests", "Requests by route and status", ["route", "status"], **own)
        self.tokens = Counter("parsit_tokens", "Tokens, of prompts and of answers", ["kind"], **own)
        self.ends = Counter("parsit_answers", "Answers by how they ended", ["end"], **own)
        self.pages = Counter("parsit_pages", "Pages parsed", **own)
        self.first_token = Histogram(
            "parsit_first_token_seconds", "From a request to its first token", buckets=_SECONDS, **own
        )
        self.seconds = Histogram("parsit_answer_seconds", "From a request to its end", buckets=_SECONDS, **own)
        self.rows = Gauge("parsit_rows", "Answers that are written, and that wait", ["state"], **own)
        self.parses = Gauge("parsit_parses", "Files that are parsed, and that wait", ["state"], **own)

    def text(self) -> bytes:
        """All numbers in Prometheus' format."""
        return generate_latest(self.registry)
