"""An application that calls one module without a pause, while another does what it does.

Knows what a call takes. Must not know what the other module does.
"""

from __future__ import annotations

import ctypes
import threading
import time
from array import array

from application import Shim
from cryptoki import ULONG, struct

#: Seconds between two uses of the other module.
BREATH = 0.01
PLACES = {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999}


def pace(seconds: float) -> dict[str, list[float]]:
    """Call the second module while the first has its ways; return the microseconds a call took, in order."""
    shim = Shim()
    shim.begin()
    bad, good, *_ = shim.slots()
    session = shim.open_session(good)
    over = threading.Event()
    failures: list[str] = []
    beside = threading.Thread(target=lambda: failures.extend(provoke(shim, bad, over)), daemon=True)
    beside.start()
    took = array("d")
    info = struct("CK_SESSION_INFO")()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        shim.must("C_GetSessionInfo", session, ctypes.byref(info))
        took.append((time.perf_counter() - begun) * 1e6)
    over.set()
    beside.join()
    ordered = sorted(took)
    chosen = [ordered[int(place * (len(ordered) - 1))] for place in PLACES.values()]
    return {"took": [*chosen, float(len(ordered))], "failures": [float(len(failures))]}


def provoke(shim: Shim, slot: int, over: threading.Event) -> list[str]:
    """Use a module until the other thread is done; return what failed."""
    failures = []
    while not over.wait(BREATH):
        session = ULONG()
        if shim.rv("C_OpenSession", slot, 4, None, None, ctypes.byref(session)) != "CKR_OK":
            continue
        rv = shim.rv("C_SignInit", session, ctypes.byref(struct("CK_MECHANISM")()), 0)
        failures += [rv] if rv != "CKR_OK" else []
    return failures
