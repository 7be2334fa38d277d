"""Errors with an SQLSTATE of their own; database/README.md lists them."""


class Refused(Exception):
    """What the caller or the administrator must change."""

    def __init__(self, sqlstate, message, hint=None):
        super().__init__(message)
        self.sqlstate, self.hint = sqlstate, hint
