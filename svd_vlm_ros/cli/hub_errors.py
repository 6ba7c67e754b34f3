# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between this machine and a hub, in one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from svd_vlm_ros.errors import UserError


@contextmanager
def sentences(model: str, revision: str) -> Iterator[None]:
    """Turn what can go wrong between here and a hub into a `UserError` of one sentence each."""
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except errors.HFValidationError:
        raise UserError(
            f"'{model}' is neither a folder nor a hub id such as llava-hf/llava-1.5-7b-hf."
        ) from None
    except errors.GatedRepoError as error:
        raise UserError(
            f"{model} is gated: accept its terms at {constants.ENDPOINT}/{model}, then log in with "
            "'hf auth login' or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{model} has no revision '{revision}'.") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{constants.ENDPOINT} knows no model {model}: check the name; if it is private, "
            "set HF_TOKEN."
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(
            "HF_HUB_OFFLINE is set, so nothing can be downloaded: unset it for this command."
        ) from error
    except Exception as error:
        raise UserError(_network_sentence(model, error, constants.ENDPOINT)) from error


def _network_sentence(model: str, error: BaseException, endpoint: str) -> str:
    """What to say of errors that huggingface_hub has no class for; its HTTP library has changed
    twice.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "The disk is full: free some space, then run the command again; it continues."
        if isinstance(cause, PermissionError):
            return f"Can't write to {cause.filename}: set HF_HOME to a folder of yours."
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"Could not fetch {model} from {endpoint} ({reason}): check the network and run the "
        "command again; what has arrived is kept."
    )
