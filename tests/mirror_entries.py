"""C for the mirror provider: a function for each call, and the lists of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mirror_structs import USES, indented

from p11host.tables import Arg, Function, Tables

BY_HAND = ("C_Initialize", "C_Finalize", "C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface")
VERBS = ("Encrypt", "Decrypt", "Sign", "Verify")
LISTS = {"CK_FUNCTION_LIST": "2.40", "CK_FUNCTION_LIST_3_0": "3.0", "CK_FUNCTION_LIST_3_2": "3.2"}

# ---- calls ----


def verb_of(function: Function) -> int:
    """Return the place of a message function's verb."""
    found = re.search("|".join(VERBS), function.name)
    return VERBS.index(found[0]) if found else 0


SEEN = {
    "local": "(void){0};",
    "slot": 'see_slot("{0}", {0});',
    "session": 'see_session("{0}", {0});',
    "object": 'see_object("{0}", {0});',
    "ulong": 'see_number("{0}", {0});',
    "flags": 'see_number("{0}", {0});',
    "bool": 'see_byte("{0}", {0});',
    "bytes": 'see_bytes("{0}", {0}, {1});',
    "fixed": 'see_bytes("{0}", {0}, {0} ? {size} : 0);',
    "string": 'see_string("{0}", {0});',
    "template": 'see_template("{0}", {0}, {1});',
    "inout template": 'see_query("{0}", {0}, {1});',
    "mechanism": 'see_mechanism("{0}", {0});',
    "message": "see_message(hSession, {verb}, {0}, {1});",
    "out bytes": 'see_cell("{0}", {0}), see_number_at("{1}", {1});',
    "out ulongs": 'see_cell("{0}", {0}), see_number_at("{1}", {1});',
    "out slots": 'see_cell("{0}", {0}), see_number_at("{1}", {1});',
    "out exact": 'see_room("{0}", {0}, {1});',
    "out objects": 'see_room("{0}", {0}, {1}), see_cell("{2}", {2});',
}
"""How an argument is said, by its kind: {0} is its first C argument. All others are a cell to be filled."""


def see_arg(function: Function, arg: Arg) -> str:
    """Return the statement that says an argument."""
    words = [word for _, word in arg.words]
    seen = SEEN.get(arg.kind, 'see_cell("{0}", {0});')
    return seen.format(*words, size=arg.size, verb=verb_of(function))


def is_signature(function: Function, arg: Arg) -> bool:
    """Tell whether an output is a signature, which may be a struct."""
    return arg.kind == "out bytes" and function.name in ("C_Sign", "C_SignFinal")


def weigh_arg(function: Function, arg: Arg) -> list[str]:
    """Return the statement that may decide the answer."""
    need = {"out bytes": "wish.need", "out ulongs": "needed_numbers()", "out slots": "SLOTS"}.get(arg.kind)
    if is_signature(function, arg):
        need = "signature_need(hSession)"
    return [f"weigh_room({arg.words[0][1]}, {arg.words[1][1]}, {need});"] if need else []


def give_arg(function: Function, arg: Arg) -> list[str]:
    """Return the statements that fill an argument."""
    words = ", ".join(word for _, word in arg.words)
    verbs = {
        "out bytes": "room",
        "out ulongs": "numbers",
        "out slots": "slots",
        "out objects": "objects",
        "out exact": "exact",
        "out ulong": "number",
        "out object": "object",
        "out session": "session",
        "out slot": "slot",
        "inout template": "attributes",
        "mechanism": "mechanism",
    }
    if arg.kind == "out struct":
        return [f"if (rv == CKR_OK && {arg.name})", f"    give_{arg.struct}({arg.name});"]
    if is_signature(function, arg):
        return [f"give_signature(hSession, {words});"]
    if arg.kind == "message":
        return [f"give_message(hSession, {verb_of(function)}, {words});"]
    return [f"give_{verbs[arg.kind]}({words});"] if arg.kind in verbs else []


def keep(function: Function) -> list[str]:
    """Return the statements about what a session has begun."""
    kinds = {arg.kind: arg.name for arg in function.args}
    if "session" not in kinds or function.name == "C_CloseSession":
        return []
    if "mechanism" not in kinds:
        return ["give_late(hSession);"] if "message" not in kinds else []
    kept = [f"keep_mechanism(hSession, {kinds['mechanism']});"]
    if function.name == "C_SignInit":
        kept.append(f"keep_signer(hSession, {kinds['mechanism']});")
    if function.context == "message-init":
        return [f"keep_message(hSession, {verb_of(function)}, {kinds['mechanism']});", *kept]
    return kept


def before(function: Function) -> list[str]:
    """Return what comes first: calls about the mirror itself."""
    if function.name == "C_SetAttributeValue":
        return ["if (is_wish(pTemplate, ulCount))", "    return take_wish(pTemplate->pValue);"]
    if function.name == "C_GetAttributeValue":
        return ["if (is_question(pTemplate, ulCount))", "    return answer_question(pTemplate);"]
    return []


def call(function: Function) -> Iterator[str]:
    """Return one call."""
    yield f"static CK_RV mirror_{function.name}({parameters(function)})\n{{"
    # C_WrapKeyAuthenticated and its like take the parameter of one message.
    yield from indented([*before(function), f'begin("{function.name}", {USES[function.context]});'])
    for arg in function.args:
        yield f"    {see_arg(function, arg)}"
    yield "    think();"
    for arg in function.args:
        yield from indented(weigh_arg(function, arg))
    for arg in function.args:
        yield from indented(give_arg(function, arg))
    yield from indented([*keep(function), "return finish();"])
    yield "}\n"


def parameters(function: Function) -> str:
    """Return the parameters of a function."""
    return ", ".join(f"{kind} {name}" for kind, name in function.words)


def entry(function: Function) -> str:
    """Return the name of a call's function: what a program looks up has the standard's name."""
    exported = function.name in BY_HAND and "Get" in function.name
    return function.name if exported else f"mirror_{function.name}"


def lists(known: Tables) -> Iterator[str]:
    """Return the function lists."""
    for name, version in LISTS.items():
        major, minor = version.split(".")
        yield f"static {name} list_{major}_{minor} = {{"
        yield f"    {{{major}, {minor}}},"
        yield from (
            f"    {entry(each)}," for each in known.functions.values() if float(each.since) <= float(version)
        )
        yield "};\n"


def calls_h(known: Tables) -> str:
    """Return every call and the lists of them."""
    own = ["static CK_RV mirror_C_Initialize(void *);", "static CK_RV mirror_C_Finalize(void *);"]
    made = [line for each in known.functions.values() if each.name not in BY_HAND for line in call(each)]
    return "\n".join([*own, "", *made, *lists(known)])
