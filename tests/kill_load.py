"""Eight threads that sign without a pause while the helper is killed again and again: an application.

Every signature is checked by another library. Knows what a program does that loses its token: it makes what
it had anew, from the slot on; or, where sessions are resumed, it only begins its operation again. Must not
know who runs it.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
from array import array
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from application import Shim, descriptors, has_children, helpers, report
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptoki import ULONG, constant, struct
from objects import CURVE, template

from p11host.wire import RemoteError

THREADS = 8
MODULE = "storm"
#: Seconds of signing before the first kill and after the last, in which nothing may fail at all.
CALM = 0.5
#: Seconds between two kills, at random.
PAUSES = (0.1, 1.5)
LABEL = b"storm key"
HASH = 32
#: Signatures after a kill among which the pause is.
SOON = 200
#: Failures in a row with which a thread gives up.
MOST_FAILURES = 5000
#: Seconds after a failure: a program that fails at once must not fill its log either.
BREATH = 0.002


class FailedError(Exception):
    """A call that did not return CKR_OK: its function and its CK_RV."""


def load(seconds: float, pin: str, seed: int, resume: bool) -> None:  # noqa: FBT001 (by a line of JSON)
    """Sign for so many seconds while our helper is killed; report what came of it."""
    storm = Storm(pin, resume=resume)
    storm.warm_up()
    before = resources()
    report("ready")
    killed = storm.run(seconds, random.Random(seed))
    after = resources()
    storm.shim.must("C_Finalize", None)
    report(
        {
            "killed": killed,
            "signatures": len(storm.done),
            "wrong": storm.wrong,
            "stuck": storm.stuck,
            "failures": [[*what, count] for what, count in sorted(storm.failures.items())],
            "back": storm.outages(killed),
            "longest": storm.longest,
            "before": before,
            "after": after,
            "left": len(descriptors()),
            "children": has_children(),
        }
    )


def resources() -> dict[str, int]:
    """Return what of ours must not grow."""
    kib = {
        line.split()[0]: int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.endswith(" kB")
    }
    return {"descriptors": len(descriptors()), "KiB": kib["VmRSS:"]}


class Storm:
    """The application's threads, and what they found."""

    def __init__(self, pin: str, *, resume: bool) -> None:
        """Make the key, which stays on the token."""
        self.shim = Shim()
        self.pin, self.resume = pin.encode(), resume
        key = ec.generate_private_key(ec.SECP256R1())
        self.public = key.public_key()
        session = self.shim.begin()
        self.slot = self.shim.slots()[0]
        self.shim.must("C_Login", session, constant("CKU_USER"), self.pin, len(self.pin))
        value = key.private_numbers().private_value.to_bytes(32, "big")
        self._create(session, value)
        self.shim.must("C_CloseSession", session)
        self.done = array("d")
        self.failures: Counter[tuple[str, str]] = Counter()
        self.wrong = self.stuck = 0
        self.longest = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()

    def _create(self, session: int, value: bytes) -> None:
        rows = template(CLASS="CKO_PRIVATE_KEY", KEY_TYPE="CKK_EC", TOKEN=True, PRIVATE=True, SIGN=True)
        rows += template(LABEL=LABEL, EC_PARAMS=CURVE, VALUE=value)
        attributes, kept = attributes_of(rows)
        self.shim.must("C_CreateObject", session, attributes, len(rows), ctypes.byref(ULONG()))
        del kept

    # ---- one life of a thread ----

    def warm_up(self) -> None:
        """Sign with all threads, so that what is made once has been made."""
        self._over.clear()
        self._run(lambda: time.sleep(CALM))
        assert not self.failures
        assert len(self.done) > THREADS
        self.done = array("d")

    def run(self, seconds: float, dice: random.Random) -> list[float]:
        """Sign while helpers are killed; return when they were."""
        killed: list[float] = []

        def kill_on() -> None:
            time.sleep(CALM)
            end = time.monotonic() + seconds
            while (pause := dice.uniform(*PAUSES)) and time.monotonic() + pause < end:
                time.sleep(pause)
                killed.extend(kill_helper())
                report(len(killed))
            time.sleep(2 * CALM)

        self._over.clear()
        self._run(kill_on)
        return killed

    def _run(self, meanwhile: Any) -> None:
        threads = [threading.Thread(target=self._sign_on, daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        meanwhile()
        self._over.set()
        for thread in threads:
            thread.join(PATIENCE)
        self.stuck += sum(thread.is_alive() for thread in threads)

    def _sign_on(self) -> None:
        worker, failures = Worker(self), 0
        while not self._over.is_set() and failures < MOST_FAILURES:
            begun = time.monotonic()
            try:
                right = worker.sign()
            except FailedError as error:
                failures += 1
                with self._lock:
                    self.failures[error.args[0], error.args[1]] += 1
                worker.lose()
                time.sleep(BREATH)
                continue
            finally:
                self.longest = max(self.longest, time.monotonic() - begun)
            failures = 0
            with self._lock:
                self.done.append(begun)
                self.wrong += not right
        self.stuck += failures == MOST_FAILURES
        worker.close()

    def outages(self, killed: list[float]) -> list[float]:
        """Return the longest time after each kill in which no signature was begun that succeeded."""
        begun = sorted(self.done)
        found = []
        for at in killed:
            # The first few may have been begun and answered while the kernel was at it.
            first = bisect_right(begun, at)
            after = [at, *begun[first : first + SOON]]
            found.append(max((b - a for a, b in pairwise(after)), default=-1.0))
        return found


#: Seconds after which something that must happen will not.
PATIENCE = 20.0


class Worker:
    """A thread's session and key."""

    def __init__(self, storm: Storm) -> None:
        """Begin with nothing."""
        self._storm, self._shim = storm, storm.shim
        self._session = self._key = 0

    def sign(self) -> bool:
        """Sign something new; tell whether the signature is right."""
        if not self._session:
            self._session = self._open()
        if not self._key:
            self._key = self._find()
        mechanism = struct("CK_MECHANISM")(mechanism=constant("CKM_ECDSA"))
        digest = os.urandom(HASH)
        signature, length = (ctypes.c_ubyte * 64)(), ULONG(64)
        self._must("C_SignInit", self._session, ctypes.byref(mechanism), self._key)
        self._must("C_Sign", self._session, digest, HASH, signature, ctypes.byref(length))
        return length.value == 64 and is_right(self._storm.public, digest, bytes(signature))

    def lose(self) -> None:
        """Forget what a failure may have made useless; close what may be open still."""
        if not self._storm.resume:
            self.close()
            self._session = self._key = 0

    def close(self) -> None:
        """Close the session, if it is one."""
        if self._session:
            self._shim.rv("C_CloseSession", self._session)

    def _open(self) -> int:
        session = ULONG()
        flags = constant("CKF_SERIAL_SESSION") | constant("CKF_RW_SESSION")
        self._must("C_OpenSession", self._storm.slot, flags, None, None, ctypes.byref(session))
        self._session = session.value
        pin = self._storm.pin
        self._must("C_Login", session.value, constant("CKU_USER"), pin, len(pin))
        return session.value

    def _find(self) -> int:
        rows = template(CLASS="CKO_PRIVATE_KEY", LABEL=LABEL)
        attributes, kept = attributes_of(rows)
        found, count = (ULONG * 2)(), ULONG()
        self._must("C_FindObjectsInit", self._session, attributes, len(rows))
        self._must("C_FindObjects", self._session, found, 2, ctypes.byref(count))
        self._must("C_FindObjectsFinal", self._session)
        del kept
        if count.value != 1:
            raise FailedError("C_FindObjects", f"{count.value} keys")
        return found[0]

    def _must(self, name: str, *words: Any) -> None:
        rv = self._shim.rv(name, *words)
        if rv not in ("CKR_OK", "CKR_USER_ALREADY_LOGGED_IN"):
            raise FailedError(name, rv)


def attributes_of(rows: list[list[Any]]) -> tuple[Any, list[Any]]:
    """Return a template in C, and what it points to."""
    kept = [ctypes.create_string_buffer(value, len(value)) for _, value in rows]
    attributes = (struct("CK_ATTRIBUTE") * len(rows))()
    for item, (kind, value), room in zip(attributes, rows, kept, strict=True):
        item.type, item.pValue, item.ulValueLen = kind, ctypes.addressof(room), len(value)
    return attributes, kept


def is_right(public: ec.EllipticCurvePublicKey, digest: bytes, signature: bytes) -> bool:
    """Check a signature with a library that has nothing to do with the token."""
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        public.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    except InvalidSignature:
        return False
    return True


def kill_helper() -> list[float]:
    """Kill our helper, if there is one just now; return when."""
    with suppress(KeyError, ProcessLookupError, OSError, RemoteError):
        pid = helpers()[MODULE]
        os.kill(pid, signal.SIGKILL)
        return [time.monotonic()]
    return []
