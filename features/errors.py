"""The one error class for what a user got wrong; the command line turns it into one line and exit code 2."""


class InputError(ValueError):
    """Bad input, configuration or environment that the user can mend.

    The message is one line and names the file, row, column or key at fault. A traceback is only for our own faults, so nothing else
    may raise this.
    """
