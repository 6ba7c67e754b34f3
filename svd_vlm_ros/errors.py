# SPDX-License-Identifier: Apache-2.0
"""The one exception that every room raises for mistakes that a person can mend."""


class UserError(Exception):
    """A mistake a person can mend; `str(error)` is one sentence: what is wrong and what to do.

    The command line prints that sentence on stderr and exits with status 1; the node puts it into
    the `message` of its reply beside a status. Neither shows a traceback.
    """
