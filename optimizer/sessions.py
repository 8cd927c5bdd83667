"""Load sessions: the opens of one model's files by one process, less than 10 s apart.

A session is one request of the model. It says how long the load took, from
its first open to its last read or release, and whether it waited for the source. Knows no models,
only their ids; what a session means to a model is its caller's business. Invariant: at most
`SESSION_LIMIT` sessions and `HANDLE_LIMIT` handles in each.
"""

SESSION_GAP_S = 10.0
"""An open that comes this long after the last one begins another session."""
SESSION_LIMIT = 4096
"""Sessions kept: processes times models that loaded within a few seconds. The oldest goes first."""
HANDLE_LIMIT = 1024
"""Open handles that a session remembers; one with more ends its load by silence alone."""


class LoadSession:
    """One load that is going on."""

    __slots__ = (
        "first_open",
        "handles",
        "last_activity",
        "last_open",
        "model_id",
        "reads",
        "waits",
    )

    def __init__(self, model_id: str, opened: float) -> None:
        self.model_id = model_id
        self.first_open = opened
        self.last_open = opened
        self.last_activity = opened
        self.handles: set[int] = set()
        self.reads = 0
        self.waits = 0

    def note_open(self, handle: int, moment: float) -> None:
        """Note an open that belongs to this session."""
        self.last_open = max(self.last_open, moment)
        self.last_activity = max(self.last_activity, moment)
        if len(self.handles) < HANDLE_LIMIT:
            self.handles.add(handle)

    def note_read(self, latency_s: float, moment: float, waited: bool) -> None:
        """Note a read that was answered at `moment`.

        One that begins after 10 s of silence is use, not load (a mapped model is read for hours).
        """
        if moment - latency_s - self.last_activity < SESSION_GAP_S:
            self.last_activity = max(self.last_activity, moment)
            self.reads += 1
            self.waits += waited

    def note_release(self, handle: int, moment: float) -> bool:
        """Note a release, and say whether it closed the last handle of the session."""
        if handle not in self.handles:
            return False
        self.handles.discard(handle)
        if moment - self.last_activity < SESSION_GAP_S:
            self.last_activity = max(self.last_activity, moment)
        return not self.handles

    @property
    def duration(self) -> float:
        """Seconds from the first open to the last read or release of the load."""
        return self.last_activity - self.first_open

    @property
    def was_cached(self) -> bool:
        """Whether it read, and none of its reads waited for the source."""
        return self.reads > 0 and self.waits == 0

    def is_over(self, now: float) -> bool:
        """Say whether neither an open nor a read could still belong to this session."""
        return now - self.last_activity >= SESSION_GAP_S


class SessionTable:
    """The sessions that are going on, by model and process, oldest first."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int], LoadSession] = {}
        self.find = self._sessions.get
        """Return the session of (model id, pid) or None; the dictionary's own method, for speed."""

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self, model_id: str, pid: int, handle: int, moment: float
    ) -> tuple[bool, LoadSession | None]:
        """Note an open; say whether it began a session, and return the session that this ended."""
        key = (model_id, pid)
        session = self._sessions.get(key)
        if session is not None and moment - session.last_open < SESSION_GAP_S:
            session.note_open(handle, moment)
            return False, None
        ended = self._sessions.pop(key, None)
        session = self._sessions[key] = LoadSession(model_id, moment)
        session.note_open(handle, moment)
        if len(self._sessions) > SESSION_LIMIT:
            ended = self._sessions.pop(next(iter(self._sessions)))
        return True, ended

    def end_quiet(self, now: float) -> list[LoadSession]:
        """Remove and return the sessions that are over at `now`."""
        over = [key for key, session in self._sessions.items() if session.is_over(now)]
        return [self._sessions.pop(key) for key in over]

    def end_all(self) -> list[LoadSession]:
        """Remove and return every session."""
        ended = list(self._sessions.values())
        self._sessions.clear()
        return ended
