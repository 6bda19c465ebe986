"""The tables of specs/ hold all of the standard."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("p11host") is None:
    sys.path.insert(0, str(ROOT))

from life_table import life_table, shown  # noqa: E402

from p11host.tables import FILES, SINCE, load, specs_path, tables  # noqa: E402

T = load(ROOT / "specs")

PROTOTYPES = {
    "C_GetSlotList": "CK_BBOOL tokenPresent, CK_SLOT_ID* pSlotList, CK_ULONG* pulCount",
    "C_OpenSession": "CK_SLOT_ID slotID, CK_FLAGS flags, void* pApplication, CK_NOTIFY Notify,"
    " CK_SESSION_HANDLE* phSession",
    "C_InitToken": "CK_SLOT_ID slotID, CK_UTF8CHAR* pPin, CK_ULONG ulPinLen, CK_UTF8CHAR* pLabel",
    "C_FindObjects": "CK_SESSION_HANDLE hSession, CK_OBJECT_HANDLE* phObject, CK_ULONG ulMaxObjectCount,"
    " CK_ULONG* pulObjectCount",
    "C_DecapsulateKey": "CK_SESSION_HANDLE hSession, CK_MECHANISM* pMechanism, CK_OBJECT_HANDLE hPrivateKey,"
    " CK_ATTRIBUTE* pTemplate, CK_ULONG ulAttributeCount, CK_BYTE* pCiphertext, CK_ULONG ulCiphertextLen,"
    " CK_OBJECT_HANDLE* phKey",
    "C_WaitForSlotEvent": "CK_FLAGS flags, CK_SLOT_ID* pSlot, void* pRserved",
}


def test_functions_are_all_of_the_standard() -> None:
    """There are 68 functions of 2.40, 24 of 3.0, none of 3.1 and 12 of 3.2, with 404 C arguments."""
    functions = T.functions.values()

    assert {"2.40": 68, "3.0": 24, "3.2": 12} == Counter(function.since for function in functions)
    assert 404 == sum(len(function.words) for function in functions)
    assert list(range(104)) == [function.index for function in functions]


@pytest.mark.parametrize(("name", "prototype"), PROTOTYPES.items())
def test_arguments_unfold_to_the_prototype(name: str, prototype: str) -> None:
    """The C arguments of a function come out with the types, names and order of the standard."""
    assert prototype == ", ".join(f"{kind} {word}" for kind, word in T.functions[name].words)


def test_functions_fold_to_the_known_shapes() -> None:
    """Arguments are told apart as the standard tells them, not merely by their C types."""
    shapes = Counter(" ".join(arg.kind for arg in function.args) for function in T.functions.values())

    assert 12 == shapes["session bytes out bytes"]
    assert 10 == shapes["session"]
    assert 10 == shapes["session mechanism object"]
    assert 8 == shapes["session bytes"]
    assert 5 == shapes["session out bytes"]


def test_null_mechanism_cancels_where_an_operation_begins() -> None:
    """A mechanism may be NULL in every C_…Init, and nowhere else."""
    optional = {f.name for f in T.functions.values() for a in f.args if a.kind == "mechanism" and a.optional}
    wanted = {f.name for f in T.functions.values() if f.name.endswith("Init")} - {"C_FindObjectsInit"}

    assert wanted == optional


@pytest.mark.parametrize(
    ("name", "gone", "absent"),
    [
        ("C_Sign", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"),
        ("C_GetTokenInfo", "CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT"),
        ("C_GetSlotInfo", "CKR_DEVICE_ERROR", "CKR_DEVICE_ERROR"),
        ("C_GetSlotList", "CKR_GENERAL_ERROR", "CKR_GENERAL_ERROR"),
        ("C_WaitForSlotEvent", "CKR_GENERAL_ERROR", "CKR_GENERAL_ERROR"),
        ("C_SessionCancel", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"),
    ],
)
def test_a_lost_helper_has_an_allowed_answer(name: str, gone: str, absent: str) -> None:
    """What is returned in a dead provider's stead is what the standard allows the function."""
    function = T.functions[name]

    assert (gone, absent) == (function.gone, function.absent)
    assert gone in function.returns


def test_waiting_has_no_deadline_and_nothing_else_has_none() -> None:
    """Only C_WaitForSlotEvent waits for ever; every other call that is sent ends by itself."""
    assert ["C_WaitForSlotEvent"] == [f.name for f in T.functions.values() if f.patience == "forever"]
    assert 0 == T.limits.deadlines["forever"] < T.limits.deadlines["short"] < T.limits.deadlines["long"]


def test_pins_are_secret() -> None:
    """Every function that takes a PIN says that its buffers are wiped."""
    takers = [f for f in T.functions.values() if any(name.endswith("Pin") for _, name in f.words)]

    assert 5 == len(takers)
    assert all(function.secret for function in takers)


def test_structs_are_all_of_the_standard() -> None:
    """There are the 97 structs of the standard and the legacy one, 150 pointers in the 97."""
    ours = [struct for struct in T.structs.values() if struct.name != "CK_GCM_PARAMS_LEGACY"]
    pointers = sum(field.pointer for struct in ours for field in struct.fields)

    assert {
        "core": 7,
        "info": 5,
        "param": 70,
        "nested": 9,
        "signature": 1,
        "deprecated": 1,
        "unused": 2,
        "alias": 2,
    } == Counter(struct.kind for struct in ours)
    assert 487 == sum(len(struct.fields) for struct in ours)
    assert 150 == pointers


def test_mechanism_parameters_without_pointers_are_nine() -> None:
    """Only nine of the parameter structs could be copied as they are: all others need the walker."""
    inline = ("ulong", "object", "byte", "fixed")
    params = [struct for struct in T.structs.values() if struct.kind == "param"]
    flat = {struct.name for struct in params if all(field.kind in inline for field in struct.fields)}

    assert {
        "CK_RSA_PKCS_PSS_PARAMS",
        "CK_RC2_CBC_PARAMS",
        "CK_RC2_MAC_GENERAL_PARAMS",
        "CK_RC5_PARAMS",
        "CK_RC5_MAC_GENERAL_PARAMS",
        "CK_AES_CTR_PARAMS",
        "CK_CAMELLIA_CTR_PARAMS",
        "CK_TLS_MAC_PARAMS",
        "CK_XEDDSA_PARAMS",
    } == flat


def test_operations_are_begun_and_ended() -> None:
    """What may be begun with a NULL mechanism is an operation; it has an end, and a flag of the standard."""
    rows = {f.name: f.operation for f in T.functions.values() if f.operation}
    begin = {name: row.names for name, row in rows.items() if row.role == "begin"}
    ends = {name: row.names for name, row in rows.items() if row.role in ("end", "finish")}
    cancelling = [
        f.name for f in T.functions.values() if any(a.kind == "mechanism" and a.optional for a in f.args)
    ]
    final = {name for name in T.functions if name.endswith("Final")} - {"C_FindObjectsFinal"}

    assert set(cancelling) == begin.keys()
    assert set(begin.values()) == set(ends.values())
    assert final <= ends.keys()
    assert {"mechanism"} == {T.constants[flag].domain for row in rows.values() for flag in row.flags}


def test_messages_use_their_operation() -> None:
    """What takes the parameter of a message leaves its operation as it is, and nothing else does."""
    using = {f.name for f in T.functions.values() if f.operation and f.operation.role == "use"}

    assert 12 == len(using)
    assert using == {f.name for f in T.functions.values() for a in f.args if a.kind == "message"}


def test_logins_have_an_effect() -> None:
    """Whatever takes a user's type and a PIN logs in, and says so; what it is about stands where C has it."""
    effects = {f.name: (f.effect.name, f.words[f.effect.pos][0]) for f in T.functions.values() if f.effect}
    logins = {f.name for f in T.functions.values() if any("CK_USER_TYPE" in word for word in f.words)}

    assert logins == {name for name, (effect, _) in effects.items() if effect in ("login", "login-by-name")}
    assert {"CK_USER_TYPE"} == {effects[name][1] for name in logins}
    assert ("destroy", "CK_OBJECT_HANDLE") == effects["C_DestroyObject"]
    assert ("change", "CK_OBJECT_HANDLE") == effects["C_SetAttributeValue"]
    assert "logout" == effects["C_Logout"][0]


def test_searches_have_an_effect() -> None:
    """Whatever hands over objects in an array goes on with a search, and says where they are."""
    finding = {
        f.name: f.words[f.effect.pos][0] for f in T.functions.values() if f.effect and f.effect.name == "find"
    }

    assert set(finding) == {f.name for f in T.functions.values() for a in f.args if a.kind == "out objects"}
    assert {"CK_OBJECT_HANDLE*"} == set(finding.values())
    assert ["C_FindObjectsInit"] == [
        f.name for f in T.functions.values() if f.effect and f.effect.name == "search"
    ]


def test_late_outputs_are_known() -> None:
    """What is an input by the standard and yet written late, by some provider, is the IV of AES-GCM."""
    late = {f"{s.name}.{f.name}" for s in T.structs.values() if not s.alias for f in s.fields if f.late}

    assert {"CK_GCM_PARAMS.pIv", "CK_GCM_PARAMS_LEGACY.pIv"} == late


def test_output_of_parameters_is_known() -> None:
    """There are 24 structs of mechanisms that carry something back, four of them no parameters."""
    kinds = ("param", "nested", "signature")
    written = [
        s for s in T.structs.values() if s.kind in kinds and any(f.direction != "in" for f in s.fields)
    ]

    assert 24 == len(written)
    assert {"CK_SSL3_KEY_MAT_OUT", "CK_WTLS_KEY_MAT_OUT", "CK_DERIVED_KEY", "CK_OTP_SIGNATURE_INFO"} == {
        struct.name for struct in written if struct.kind != "param"
    }


def test_lengths_that_no_text_gives_are_eight() -> None:
    """Where the standard does not say how long a field is, the tables do not guess."""
    unknown = [
        f"{struct.name}.{field.name}"
        for struct in T.structs.values()
        for field in struct.fields
        if field.length and field.length.unit == "unknown"
    ]

    assert 8 == len(unknown)
    assert all(name.startswith(("CK_X3DH_", "CK_X2RATCHET_")) for name in unknown)


def test_mechanisms_are_all_of_the_standard() -> None:
    """There are 479 names for 463 mechanisms, and what their parameters are is counted."""
    by_number = {mechanism.value: mechanism for mechanism in T.mechanisms.values()}
    kinds = Counter(
        m.param
        if m.param in ("none", "undefined")
        else "by context"
        if m.contextual
        else m.choices["plain"][0].kind
        for m in by_number.values()
    )

    assert (479, 463) == (len(T.mechanisms), len(by_number))
    assert {
        "none": 207,
        "undefined": 2,
        "bytes": 64,
        "ulong": 41,
        "version": 2,
        "handle": 1,
        "byte": 1,
        "struct": 141,
        "by context": 4,
    } == kinds


def test_parameter_structs_are_all_in_use() -> None:
    """Every parameter struct of the tables is the parameter of some mechanism."""
    choices = (c for m in T.mechanisms.values() for found in m.choices.values() for c in found)
    used = {choice.struct for choice in choices if choice.struct}

    assert {struct.name for struct in T.structs.values() if struct.kind == "param"} <= used


def test_parameter_of_gcm_depends_on_its_use() -> None:
    """Two structs of GCM are equally long: what the function is for tells them apart."""
    structs = {
        context: [choice.struct for choice in choices]
        for context, choices in T.mechanisms["CKM_AES_GCM"].choices.items()
    }
    size = T.sizes["lp64"]

    assert size["CK_GCM_PARAMS"].size == size["CK_GCM_MESSAGE_PARAMS"].size
    assert {
        "plain": ["CK_GCM_PARAMS", "CK_GCM_PARAMS_LEGACY"],
        "wrap": ["CK_GCM_WRAP_PARAMS", "CK_GCM_PARAMS", "CK_GCM_PARAMS_LEGACY"],
        "message-init": [],
        "message": ["CK_GCM_MESSAGE_PARAMS"],
    } == structs


def test_choices_can_be_told_apart() -> None:
    """Of two structs for one mechanism and use, either the length differs or the first has a condition."""
    for mechanism in T.mechanisms.values():
        for choices in mechanism.choices.values():
            for abi in ("lp64", "ilp32"):
                sizes = [T.sizes[abi][c.struct].size for c in choices if c.struct and not c.probe]

                assert len(set(sizes)) == len(sizes), mechanism.name
            assert all(choice.kind != "bytes" for choice in choices[:-1]), mechanism.name


def test_attributes_are_all_of_the_standard() -> None:
    """There are 160 names for 158 attributes, and how many of each kind is counted."""
    assert (160, 158) == (len(T.attributes), len({a.value for a in T.attributes.values()}))
    assert {
        "bytes": 66,
        "ulong": 51,
        "bool": 31,
        "template": 5,
        "ulongs": 3,
        "date": 2,
        "version": 1,
        "vendor": 1,
    } == Counter(attribute.kind for attribute in T.attributes.values())


@pytest.mark.parametrize("number", [0x62A, 0x4000062A])
def test_encapsulate_template_has_two_numbers(number: int) -> None:
    """The published header and a later draft number CKA_ENCAPSULATE_TEMPLATE differently: both are known."""
    attribute = T.attribute(number)

    assert attribute is not None
    assert ("CKA_ENCAPSULATE_TEMPLATE", "template") == (attribute.name, attribute.kind)


def test_constants_are_all_of_the_standard() -> None:
    """There are 1050 constants with the mechanisms and attributes, and how many of each kind is counted."""
    kinds = Counter(constant.kind for constant in T.constants.values())

    assert 1050 == len(T.constants) + len(T.mechanisms) + len(T.attributes)
    assert {
        "ckr": 105,
        "ckf": 73,
        "cko": 13,
        "ckk": 69,
        "ckc": 4,
        "cku": 3,
        "ckg": 14,
        "ckd": 26,
    }.items() <= kinds.items()
    assert {
        "ckp": 34,
        "ckz": 2,
        "ckh": 7,
        "ckn": 2,
        "cks": 6,
        "ckt": 5,
        "ckv": 8,
        "ck": 36,
    }.items() <= kinds.items()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("CKR_EXCEEDED_MAX_ITERATIONS", 0x1B5),
        ("CKR_FIPS_SELF_TEST_FAILED", 0x1B6),
        ("CKR_LIBRARY_LOAD_FAILED", 0x1B7),
        ("CKR_PIN_TOO_WEAK", 0x1B8),
        ("CKR_PUBLIC_KEY_INVALID", 0x1B9),
    ],
)
def test_return_values_that_others_have_wrong(name: str, number: int) -> None:
    """Five return values have other numbers in a widespread header: ours are those of the standard."""
    assert number == T.constants[name].value


def test_numbers_have_names() -> None:
    """A number is shown by its first name: the one that is no alias."""
    mechanism, attribute = T.mechanism(0x1040), T.attribute(0x180)
    constant = T.constant("ckf", 4, "slot")

    assert mechanism
    assert "CKM_EC_KEY_PAIR_GEN" == mechanism.name
    assert attribute
    assert "CKA_EC_PARAMS" == attribute.name
    assert constant
    assert "CKF_HW_SLOT" == constant.name
    assert T.mechanism(0x7FFFFFFF) is None


def test_names_fit_the_protocol() -> None:
    """No function's or struct's name is longer than the protocol's limit."""
    assert T.limits.limits["name"] >= max(map(len, (*T.functions, *T.structs)))


def test_sizes_follow_from_natural_alignment() -> None:
    """No field overlaps the next, on either ABI, and no struct is padded by more than its widest field."""
    for abi, word in (("lp64", 8), ("ilp32", 4)):
        for name, size in T.sizes[abi].items():
            ends = (*size.offsets[1:], size.size)
            for field, start, end in zip(T.structs[name].fields, size.offsets, ends, strict=True):
                wide = word if field.pointer or field.kind in ("ulong", "object", "slot", "local") else 1
                length = wide * max(1, field.array)
                if field.kind == "struct":
                    length = T.sizes[abi][field.base].size

                assert 0 <= end - start - length < word, f"{name}.{field.name}"


def test_our_own_tables_are_found() -> None:
    """Without a directory, the tables are those beside the package or at the root of the source tree."""
    assert all((specs_path() / f"{name}.toml").is_file() for name in FILES)
    assert tables().digest == load().digest


def test_the_life_of_a_process_is_in_the_docs() -> None:
    """docs/fork.md shows every row of specs/life.toml as it is."""
    assert life_table(T.life) == shown((ROOT / "docs" / "fork.md").read_text(encoding="utf-8"))


def test_rows_since_a_version_are_counted() -> None:
    """Newer names are marked: 103, 7 and 37 mechanisms, 19, 6 and 27 attributes of 3.0, 3.1 and 3.2."""
    mechanisms = Counter(row.since for row in T.mechanisms.values())
    attributes = Counter(row.since for row in T.attributes.values())

    assert [103, 7, 37] == [mechanisms[since] for since in SINCE[1:]]
    assert [19, 6, 27] == [attributes[since] for since in SINCE[1:]]
