"""Messages for what object storage and web servers answer, without their own texts: those may hold keys and signatures."""

import re

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.spec.addresses import Address

_SIGN_IN = {
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN where they are temporary), or run where a role "
        'is given; for a profile: eval "$(aws configure export-credentials --format env)". For a public bucket set '
        "AWS_SKIP_SIGNATURE=true."
    ),
    "gs": (
        "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, run `gcloud auth application-default login`, "
        "or run where an account is given. For a public bucket set GOOGLE_SKIP_SIGNATURE=true."
    ),
    "azure": (
        "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_TENANT_ID, AZURE_CLIENT_ID and "
        "AZURE_CLIENT_SECRET, or run where an identity is given. For a public container set AZURE_SKIP_SIGNATURE=true."
    ),
    "web": "Pass an address that is signed, by --input; or download the file.",
}
_SIGNING_IN = re.compile(r"method: (PUT|POST),|//169\.254\.|source: TokenRequest|token request:")
"""In answers to requests for credentials: objects are read by GET alone."""

_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_STATUS = re.compile(r"status: (\d{3}),|status code: (\d{3})")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "InvalidToken")
_UNKNOWN_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthenticationFailed", "InvalidAuthenticationInfo")
_OTHER_REGION = (
    "PermanentRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "TemporaryRedirect",
)
_NO_CONTAINER = ("NoSuchBucket", "ContainerNotFound", "InvalidBucketName", "InvalidResourceName")


class StorageError(SourceError):
    """Object storage or a web server does not give what was asked for."""


class AccessDeniedError(StorageError):
    """It is there or not, but not for this user."""


def is_absent(error: Exception) -> bool:
    """Whether an answer says that there is no such object, while its container may be there."""
    text = str(error)
    return (
        isinstance(error, FileNotFoundError)
        and _code(text) not in _NO_CONTAINER
        and "bucket does not exist" not in text
    )


def is_empty_range(error: Exception) -> bool:
    """Whether bytes were asked for beyond the end of an object."""
    return _status(str(error)) == 416


def is_broken_off(error: Exception) -> bool:
    """Whether an answer began, and its end did not come."""
    text = str(error)
    return _status(text) is None and any(sign in text for sign in ("kind: Body", "kind: Decode", "list response body"))


def settings_error(address: Address) -> StorageError:
    """What to tell when the environment does not say how to sign in, before anything is asked for."""
    container = f"{address.scheme}://{address.container}"
    return StorageError(f"{address}: no usable credentials were found for {container}. {_SIGN_IN[_kind(address)]}")


def storage_error(error: Exception, address: Address, tries: int) -> StorageError:
    """What to tell of an answer.

    Args:
        error: What the library raised.
        address: What was asked for.
        tries: How often it tries what may pass.
    """
    text = str(error)
    code, status = _code(text), _status(text)
    container, sign_in = f"{address.scheme}://{address.container}", _SIGN_IN[_kind(address)]
    if code in _NO_CONTAINER or "bucket does not exist" in text:
        return StorageError(
            f"{address}: there is no {container}. Correct the address, or the endpoint in the environment."
        )
    if code in _OTHER_REGION or "BareRedirect" in text or (status == 301 and not address.is_web):
        return StorageError(
            f"{address}: {container} lies in another region than is set. Set AWS_REGION to that of the bucket."
        )
    if code in _EXPIRED:
        return AccessDeniedError(f"{address}: the credentials have expired ({code}). Sign in again. {sign_in}")
    if code in _UNKNOWN_KEY:
        return AccessDeniedError(f"{address}: the credentials are not valid there ({code}). {sign_in}")
    if code == "RequestTimeTooSkewed":
        return StorageError(f"{address}: the clock of this machine is wrong, so that no request is accepted. Set it.")
    if status in (401, 403) and not _SIGNING_IN.search(text):
        return AccessDeniedError(
            f"{address}: may not be read ({code or status}); where nothing lies there, users who may not list it are told "
            f"the same. Ask for permission to read and to list it, or sign in as someone who may. {sign_in}"
        )
    if _SIGNING_IN.search(text):
        return settings_error(address)
    if status == 404:
        return StorageError(f"{address}: is no longer there. Restore it, or correct the log's paths.")
    if type(error).__name__ == "NotSupportedError":
        return StorageError(
            f"{address}: the server does not give parts of a file. Download it, and name it by its path; or take another server."
        )
    if type(error).__name__ == "InvalidPathError" or "path segment" in text:
        return StorageError(
            f"{address}: a key here has an empty part, or one that is `.` or `..`, which is no name of a file. Rename what "
            "lies there, or name a folder or pattern without it."
        )
    passing = _passing(error, code, status)
    if passing is None:
        why = code or status or type(error).__name__
        return StorageError(f"{address}: the request was refused ({why}). Correct the address, or the endpoint.")
    return StorageError(
        f"{address}: the server {passing}; tried {tries} times. Nothing of this file was taken. Run again later: what is "
        "finished is kept. If it stays so, look at the network, and at the endpoint in the environment."
    )


def _passing(error: Exception, code: str | None, status: int | None) -> str | None:
    """What the server does that may be otherwise next time."""
    text = str(error)
    if status is not None:
        passes = status >= 500 or status in (408, 429)
        return f"answers with error {status}{f' ({code})' if code else ''}" if passes else None
    if "kind: Connect" in text:
        return "cannot be reached (no connection, or its certificate is not trusted)"
    if "TimedOut" in text or "kind: Timeout" in text:
        return "gives no answer in time"
    return "breaks off in the middle of an answer" if is_broken_off(error) or "kind: " in text else None


def _code(text: str) -> str | None:
    found = _CODE.search(text)
    return found[1] if found else None


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1] or found[2]) if found else None


def _kind(address: Address) -> str:
    return "web" if address.is_web else address.scheme if address.scheme in ("s3", "gs") else "azure"
