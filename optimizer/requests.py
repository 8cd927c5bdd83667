"""Inference requests that were announced: pending, then completed, both bounded.

Knows requests by their id only. A server that never completes what it announced costs a bounded
amount of memory: the oldest pending request is forgotten.
"""

from optimizer.events import InferenceRequest

PENDING_LIMIT = 10_000
"""Requests in progress that are remembered: far more than a server has in flight."""
COMPLETED_LIMIT = 1000
"""Completed requests that are remembered, as many as a series has samples."""


class RequestBook:
    """Requests by id, oldest first."""

    def __init__(self) -> None:
        self._pending: dict[str, InferenceRequest] = {}
        self._completed: dict[str, InferenceRequest] = {}

    @property
    def pending(self) -> tuple[InferenceRequest, ...]:
        """Requests that have not been completed."""
        return tuple(self._pending.values())

    @property
    def completed(self) -> tuple[InferenceRequest, ...]:
        """The newest completed requests."""
        return tuple(self._completed.values())

    def add(self, request: InferenceRequest) -> None:
        """Note a request as pending; one with the same id takes the place of the other."""
        self._pending.pop(request.request_id, None)
        self._pending[request.request_id] = request
        if len(self._pending) > PENDING_LIMIT:
            del self._pending[next(iter(self._pending))]

    def complete(self, request_id: str) -> InferenceRequest | None:
        """Move a request from pending to completed; None where it was not pending."""
        request = self._pending.pop(request_id, None)
        if request is None:
            return None
        self._completed.pop(request_id, None)
        self._completed[request_id] = request
        if len(self._completed) > COMPLETED_LIMIT:
            del self._completed[next(iter(self._completed))]
        return request
