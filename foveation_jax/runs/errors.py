"""The one exception of foveation_jax for input that cannot be used."""


class InputError(ValueError):
    """Bad input: one sentence that names the file, field or value and what is allowed.

    The commands print the sentence and end with exit code 2; library code raises it before any
    result is written, so earlier results stay whole.
    """
