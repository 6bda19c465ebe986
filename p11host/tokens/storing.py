"""Putting what a file holds on a token, and taking from a token what a file shall hold.

Knows which id an object should have to be found beside its key. Must not know files.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pkcs11
from asn1crypto import x509
from pkcs11 import Attribute, ObjectClass

from p11host.errors import P11HostError
from p11host.tokens.find import KINDS, find_objects, read
from p11host.tokens.forms import Form, public_info
from p11host.tokens.making import new_id
from p11host.uri import Kind, Uri


def store(session: pkcs11.Session, form: Form, uri: Uri, *, extractable: bool) -> pkcs11.Object:
    """Put an object on a token under the label and id of the URI, else such as fit it."""
    attributes = dict(form.attributes)
    if form.kind == "private":
        attributes |= {Attribute.EXTRACTABLE: extractable, Attribute.SENSITIVE: not extractable}
    number = uri.id or _same_key(session, form.public) or form.default_id() or new_id()
    _refuse_same(session, form, replace(uri, id=number))
    attributes |= {
        Attribute.TOKEN: True,
        Attribute.LABEL: form.name if uri.object is None else uri.object,
        Attribute.ID: number,
    }
    return session.create_object(attributes)


def _same_key(session: pkcs11.Session, public: Mapping[Attribute, Any]) -> bytes | None:
    """Return the id of a key of the token with this public key."""
    known = {each: public[each] for each in (Attribute.MODULUS, Attribute.EC_POINT) if each in public}
    if not known:
        return None
    for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
        for found in list(session.get_objects({Attribute.CLASS: kind, **known})):
            number = read(found, Attribute.ID)
            if isinstance(number, bytes) and number:
                return number
    return None


def _refuse_same(session: pkcs11.Session, form: Form, uri: Uri) -> None:
    """Raise P11HostError if the token has that certificate, or a key of that kind and id, already."""
    if form.kind == "cert":
        there = list(
            session.get_objects(
                {
                    Attribute.CLASS: ObjectClass.CERTIFICATE,
                    Attribute.VALUE: form.attributes[Attribute.VALUE],
                }
            )
        )
    else:
        there = find_objects(session, replace(uri, object=None, type=form.kind))
    if there:
        number = (uri.id or b"").hex()
        raise P11HostError(
            f"the token has that already ({form.kind}, id {number}); give another id, or delete it"
        )


def kind_of(found: pkcs11.Object) -> Kind:
    """Return what a URI calls the class of an object; P11HostError if it has no word for it."""
    kind = KINDS.get(read(found, Attribute.CLASS))
    if kind is None:
        raise P11HostError("an object of a class that has no form in a file")
    return kind


def certificate_bytes(found: pkcs11.Object) -> bytes:
    """Return a certificate in DER."""
    value = read(found, Attribute.VALUE)
    if not isinstance(value, bytes) or not value:
        raise P11HostError("the token holds this certificate elsewhere (CKA_URL) and has no bytes of it")
    return value


def public_bytes(found: pkcs11.Object) -> bytes:
    """Return the public key of a certificate or a key as SubjectPublicKeyInfo in DER."""
    if kind_of(found) != "cert":
        return public_info(found)
    try:
        return bytes(x509.Certificate.load(certificate_bytes(found), strict=True).public_key.dump())
    except (ValueError, TypeError) as error:
        raise P11HostError("the certificate is not X.509; its public key cannot be read") from error
