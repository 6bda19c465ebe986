"""When p11host itself returns a CKR, in a provider's stead.

Knows what the shim does, as far as no table says it. What follows from a function's row, such as the CKR for
a helper that died, is in entries.py. A test compares the names with those in shim/.
"""

from collections.abc import Mapping

REASONS: Mapping[str, tuple[str, ...]] = {
    "CKR_ARGUMENTS_BAD": (
        "C_Initialize: pReserved is not NULL, or some mutex callbacks are given and others not",
        "C_Finalize, C_WaitForSlotEvent: pReserved is not NULL",
        "a pointer that must not be NULL is, in calls that the shim answers itself",
        "a byte string of more than 1 GiB, an array of more than 1048576 elements, templates over 8 deep",
        "a number that a provider of 32 bits cannot be told",
    ),
    "CKR_ATTRIBUTE_TYPE_INVALID": ("an attribute whose number a provider of 32 bits cannot be told",),
    "CKR_ATTRIBUTE_VALUE_INVALID": (
        "an array of numbers or of attributes whose pointer is NULL while its length is not 0",
        "an array of attributes whose length is no multiple of that of one",
        "a value that a provider of 32 bits cannot be told",
    ),
    "CKR_BUFFER_TOO_SMALL": (
        "C_GetSlotList, C_GetInterfaceList: there are more than the array has room for",
    ),
    "CKR_CANT_LOCK": ("C_Initialize: mutex callbacks without CKF_OS_LOCKING_OK",),
    "CKR_CRYPTOKI_ALREADY_INITIALIZED": ("C_Initialize, a second time",),
    "CKR_CRYPTOKI_NOT_INITIALIZED": (
        "before C_Initialize or after C_Finalize, also for calls that C_Finalize found in progress",
        'in a forked child with a module that has fork = "strict", until it calls C_Initialize',
    ),
    "CKR_DEVICE_ERROR": (
        "no answer within the deadline, or a malformed one: the call may or may not have been executed",
        "a provider that claims to have filled more than the caller's buffer has room for",
    ),
    "CKR_FUNCTION_FAILED": (
        "no channel to the helper could be opened, though it lives: the call was not made",
    ),
    "CKR_FUNCTION_NOT_SUPPORTED": (
        "the provider lacks the function",
        "functions about asynchronous sessions, which are not offered",
    ),
    "CKR_GENERAL_ERROR": (
        "C_Initialize: there is no broker, it refused, or no helper could be started; the log says which",
        "as CKR_DEVICE_ERROR, of a function that may not return that",
    ),
    "CKR_HOST_MEMORY": ("out of memory, or a message over a limit of specs/limits.toml",),
    "CKR_KEY_HANDLE_INVALID": (
        "a handle from before a fork, a helper's death or C_Finalize, where 0 would mean none",
    ),
    "CKR_MECHANISM_INVALID": ("a mechanism whose number a provider of 32 bits cannot be told",),
    "CKR_MECHANISM_PARAM_INVALID": (
        "a parameter the tables do not describe: of an unknown mechanism, or as long as none of its structs",
        "a pointer in a parameter whose length nothing says",
        "a handle in a parameter from before a fork, a helper's death or C_Finalize",
        "structs, mechanisms or templates in a parameter more than 8 deep",
        "a number in a parameter that a provider of 32 bits cannot be told",
    ),
    "CKR_NO_EVENT": ("C_WaitForSlotEvent with CKF_DONT_BLOCK: no module has one",),
    "CKR_OBJECT_HANDLE_INVALID": (
        "with `resume`: an object that cannot be found again after a restart, or not for certain",
    ),
    "CKR_OPERATION_NOT_INITIALIZED": (
        "a message with a parameter in a session in which no operation on messages was begun",
    ),
    "CKR_SESSION_HANDLE_INVALID": (
        "a session from before a fork, its helper's death or C_Finalize, or one never opened",
    ),
    "CKR_SLOT_ID_INVALID": ("a slot that no module of this application has",),
    "CKR_USER_NOT_LOGGED_IN": (
        "with `resume`: a private object after a restart, where the broker has no PIN or it was refused",
    ),
}
"""By the name of the CKR."""

NEVER = ("CKR_OK",)
"""What needs no reason."""
