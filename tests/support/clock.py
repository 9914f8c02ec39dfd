"""A clock that a test sets by hand: what depends on it ends alike on a busy machine."""


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
