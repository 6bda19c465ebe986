"""What is told of a token or an object: everything that is no secret.

Knows which attributes hold secrets, and asks for none of them. Must not know how it is shown.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Any

import pkcs11
from asn1crypto import keys, x509
from pkcs11 import Attribute, CertificateType, Mechanism, ObjectClass, TokenFlag

from p11host.tables import tables
from p11host.text import printable
from p11host.tokens.find import read, serial, uri_of, uri_of_token

Facts = dict[str, Any]

_KEYS = (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
#: What a key must not be asked for: a token that gives it up would have it on a screen.
_SECRETS = frozenset(
    {
        Attribute.VALUE,
        Attribute.PRIVATE_EXPONENT,
        Attribute.PRIME_1,
        Attribute.PRIME_2,
        Attribute.EXPONENT_1,
        Attribute.EXPONENT_2,
        Attribute.COEFFICIENT,
        Attribute.SEED,
    }
)
#: What kind of constants an attribute's values are.
_CONSTANTS = {
    Attribute.CLASS: "cko",
    Attribute.KEY_TYPE: "ckk",
    Attribute.CERTIFICATE_TYPE: "ckc",
    Attribute.HW_FEATURE_TYPE: "ckh",
}
_CHAIN_MOST = 16
_LINK = ("subject", "issuer", "not_before", "not_after", "validity", "days_left", "sha256")
_SHOWN_BYTES = 24
_LONG = re.compile(r"[0-9a-f]{130,}")


def describe_token(token: pkcs11.Token) -> Facts:
    """Return what a token says of itself, and its mechanisms."""
    flags = sorted(flag.name.lower() for flag in TokenFlag if flag in token.flags and flag.name)
    return {
        "uri": str(uri_of_token(token)),
        "label": token.label,
        "manufacturer": token.manufacturer_id,
        "model": token.model,
        "serial": serial(token),
        "slot": token.slot.slot_id,
        "slot_description": token.slot.slot_description,
        "hardware_version": ".".join(map(str, token.hardware_version)),
        "firmware_version": ".".join(map(str, token.firmware_version)),
        "flags": flags,
        "mechanisms": sorted(map(_mechanism, token.slot.get_mechanisms())),
    }


def _mechanism(mechanism: Mechanism | int) -> str:
    """Return a mechanism's name in the standard, which python-pkcs11 writes in its own way."""
    known = tables().mechanism(int(mechanism))
    return known.name if known else f"{int(mechanism):#x}"


def describe(token: pkcs11.Token, found: pkcs11.Object, certificates: Sequence[pkcs11.Object]) -> Facts:
    """Return what may be known of an object; of a certificate its chain among `certificates` too."""
    facts: Facts = {"uri": str(uri_of(token, found)), "attributes": attributes(found)}
    value = read(found, Attribute.VALUE) if _is_x509(found) else None
    if isinstance(value, bytes):
        facts["certificate"] = certificate(value)
        facts["chain"] = [link(each) for each in chain(value, list(_values(certificates)))]
    return facts


def attributes(found: pkcs11.Object) -> Facts:
    """Return every attribute that an object has and that is no secret, by its name in the standard."""
    hidden = _SECRETS if read(found, Attribute.CLASS) in _KEYS else frozenset()
    values = ((each, read(found, each)) for each in Attribute if each not in hidden)
    return {f"CKA_{each.name}": _plain(each, value) for each, value in values if value is not None}


def _plain(attribute: Attribute, value: object) -> object:
    """Return a value as JSON has it: bytes in hexadecimal, a number of the standard by its name."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mechanism):
        return _mechanism(value)
    if isinstance(value, IntEnum):
        known = tables().constant(_CONSTANTS.get(attribute, ""), int(value))
        return known.name if known else value.name
    return value.isoformat() if isinstance(value, date) else value


def certificate(data: bytes) -> Facts:
    """Return what a person wants to know of an X.509 certificate."""
    parsed = _parsed(data)
    if parsed is None:
        return {"error": "not X.509"}
    now = datetime.now(UTC)
    before, after = parsed.not_valid_before, parsed.not_valid_after
    state = "not yet valid" if now < before else "expired" if now > after else "valid"
    return {
        "subject": parsed.subject.human_friendly,
        "issuer": parsed.issuer.human_friendly,
        "serial_number": f"{parsed.serial_number:x}",
        "not_before": before.isoformat(),
        "not_after": after.isoformat(),
        "validity": state,
        "days_left": (after - now).days,
        "key": _key(parsed),
        "signature": parsed["signature_algorithm"].native["algorithm"],
        "names": _names(parsed),
        "ca": bool(parsed.ca),
        "key_usage": sorted(parsed.key_usage_value.native) if parsed.key_usage_value else [],
        "extended_key_usage": list(parsed.extended_key_usage_value.native)
        if parsed.extended_key_usage_value
        else [],
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _key(parsed: x509.Certificate) -> str:
    algorithm = parsed.public_key.algorithm
    try:
        return f"{algorithm} {parsed.public_key.bit_size}"
    except (ValueError, KeyError):
        return str(algorithm)


def _names(parsed: x509.Certificate) -> list[str]:
    names = parsed.subject_alt_name_value
    return [str(each.native) for each in names] if names else []


def link(data: bytes) -> Facts:
    """Return a certificate of a chain in short."""
    facts = certificate(data)
    return {name: facts.get(name) for name in _LINK}


def chain(data: bytes, others: Sequence[bytes]) -> list[bytes]:
    """Return a certificate, its issuer and so on, by names and key identifiers; no signature is checked."""
    found = [data]
    parsed = _parsed(data)
    while parsed is not None and parsed.self_issued is False and len(found) < _CHAIN_MOST:
        issuer = next((each for each in others if each not in found and _issued(each, parsed)), None)
        if issuer is None:
            break
        found.append(issuer)
        parsed = _parsed(issuer)
    return found


def _issued(candidate: bytes, child: x509.Certificate) -> bool:
    parsed = _parsed(candidate)
    if parsed is None or parsed.subject != child.issuer:
        return False
    wanted, has = child.authority_key_identifier, parsed.key_identifier
    return wanted is None or has is None or wanted == has


def _parsed(data: bytes) -> x509.Certificate | None:
    try:
        parsed = x509.Certificate.load(data, strict=True)
        _ = parsed.native
    except (ValueError, TypeError, KeyError):
        return None
    return parsed


def _is_x509(found: pkcs11.Object) -> bool:
    kind = read(found, Attribute.CERTIFICATE_TYPE)
    return read(found, Attribute.CLASS) == ObjectClass.CERTIFICATE and kind in (None, CertificateType.X_509)


def _values(certificates: Sequence[pkcs11.Object]) -> Iterator[bytes]:
    values = (read(each, Attribute.VALUE) for each in certificates)
    return (value for value in values if isinstance(value, bytes))


# ---- for people ----


def validity(facts: Mapping[str, Any]) -> str:
    """Return in words whether a certificate counts today, and until when."""
    before, after = _moment(facts["not_before"]), _moment(facts["not_after"])
    match facts["validity"]:
        case "valid":
            return f"valid until {after}, {_days(facts['days_left'])} left"
        case "expired":
            ago = -facts["days_left"] - 1  # whole days; what is left is rounded down
            return f"expired {after}" + (f", {_days(ago)} ago" if ago else "")
    return f"not yet valid: from {before} until {after}"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _days(count: int) -> str:
    return f"{count} day{'' if count == 1 else 's'}"


def for_people(facts: Mapping[str, Any]) -> Facts:
    """Return what is known of a certificate as a person reads it: when it counts in one line."""
    if "error" in facts:
        return dict(facts)
    rest = {name: facts[name] for name in facts if name not in ("not_before", "not_after", "days_left")}
    return rest | {"validity": validity(facts), "serial_number": None, "serial": facts["serial_number"]}


def attributes_for_people(found: Mapping[str, Any]) -> Facts:
    """Return attributes as a person reads them: names and curves decoded."""
    return {name: _decoded(name, value) for name, value in found.items()}


def _decoded(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in ("CKA_SUBJECT", "CKA_ISSUER", "CKA_EC_PARAMS"):
        return value
    try:
        data = bytes.fromhex(value)
        if name == "CKA_EC_PARAMS":
            return keys.ECDomainParameters.load(data, strict=True).native
        return x509.Name.load(data, strict=True).human_friendly or value
    except (ValueError, TypeError, KeyError):
        return value


def _short(words: str) -> str:
    """Return long bytes as their beginning and how many they are: people read no more of them."""
    if not _LONG.fullmatch(words):
        return words
    return f"{words[: 2 * _SHOWN_BYTES]}… ({len(words) // 2} bytes)"


def lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is told of a thing as pairs of words for people."""
    for name, value in facts.items():
        if value in (None, "", []):
            continue
        words = _words(value)
        yield name.replace("_", " ") if name.islower() else name, _short(printable(words))


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
