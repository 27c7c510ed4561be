"""Whose fault is it? A `UserError` is a person's mistake; any other exception is ours.

Where work ends (a job, a command, a tweet of a sweep, a part of a page), a `UserError` is shown as
it is, and anything else is logged with its traceback and shown as one sentence that says so: a
`ValueError` of NumPy, torch or pandas tells nobody what to mend.
"""


class UserError(ValueError):
    """One plain sentence: what is wrong, the value, what to do."""


class NotDrawn(UserError):
    """The drawing library broke off, or did not come to an end."""
