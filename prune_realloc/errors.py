"""What goes wrong without being our bug: the user's input, or the work itself."""


class InputError(ValueError):
    """The user's input is wrong; the message is one line that names the field, the value and the remedy.

    The command line prints it and exits with code 2. Our own bugs raise other exceptions.
    """


class NotFinite(InputError):
    """A network's predictions are not finite on the user's images."""


class WorkFailed(RuntimeError):
    """The work could not be done, although the input was right."""


def first_line(error: BaseException) -> str:
    """Of another library's message, for one of ours; the exception's name where there is none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
