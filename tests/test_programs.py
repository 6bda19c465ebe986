"""docs/programs.md: real programs on the merged view, with all kinds of provider at once, hostile ones too.

What a program says of a good token is what it says where that token is all there is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import PyKCS11
import pytest
import test_nss as nss
import test_opensc as opensc
from house import CARD, HOSTILE, KEYS, LABELS, House, await_true, house
from life import Host, Workshop
from reach import Reach
from recipe import recipe
from sshd import logins, sshd
from tls import await_listener, free_port

from p11host import shim_path

pytest_plugins = ["life_fixtures"]

DATA = b"signed, sealed, delivered\n"
PATH = "$(p11host path)"
LIBRARY = "/usr/local/lib/python3.11/site-packages/p11host/p11host.so"
DATABASE = "sql:$HOME/.pki/nssdb"
OPENSSL = "/etc/p11host/openssl.cnf"
#: A token shows with all that follows up to the next.
SLOT = re.compile(r"(?m)^Slot \d+ \(0x[0-9a-f]+\): ")
TOKEN = re.compile(r"(?m)^Token \d+:\n")
BLANK = re.compile(r"\n\n+")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, workshop: Workshop) -> Iterator[House]:
    """Return the house, for all programs."""
    with house(tmp_path_factory.mktemp("house"), workshop) as found:
        yield found


def run(
    reach: Reach,
    work: Path,
    name: str,
    places: Mapping[str, object] | None = None,
    status: int | None = 0,
) -> str:
    """Follow a recipe in a directory of its own; return what it prints."""
    work.mkdir(exist_ok=True)
    (work / "data").write_bytes(DATA)
    (work / "pin").write_text(f"{reach.token.pin}\n")
    script = recipe(name, {PATH: reach.module} if places is None else places)
    return reach.run("sh", "-ec", f"cd {work}\n{script}", status=status).stdout


def both(home: House, work: Path, name: str) -> tuple[str, str]:
    """Follow a recipe on SoftHSM alone and on the merged view; return what is printed."""
    alone, merged = work / "alone", work / "merged"
    return run(home.alone, alone, name), run(home.merged, merged, name)


def parts(text: str, separator: re.Pattern[str]) -> set[str]:
    """Return what stands between separators, each without what surrounds it."""
    return {part.strip() for part in separator.split(text)[1:]}


# ---- pkcs11-tool ----


def test_pkcs11_tool(home: House, work: Path) -> None:
    """It lists slots and objects as it does where the tokens are alone, and signs on the one it names."""
    alone, merged = both(home, work, "pkcs11-tool.sh")
    slots, objects = merged.split("Public Key Object", 1)

    assert parts(alone.split("Public Key Object", 1)[0], SLOT) <= parts(slots, SLOT)
    assert alone.split("Public Key Object", 1)[1] == objects
    for label in (*LABELS, CARD, nss.DATABASE):
        assert f"token label        : {label}\n" in slots
    assert home.has_signed("mine", "rsa", DATA, (work / "merged" / "signature").read_bytes())


@pytest.mark.parametrize(
    ("label", "pin", "key"),
    [("archive", "123456", "01"), (CARD, opensc.PIN.decode(), "01"), (nss.DATABASE, nss.PIN.decode(), "77")],
    ids=["softhsm", "card", "nss"],
)
def test_pkcs11_tool_signs_anywhere(home: House, work: Path, label: str, pin: str, key: str) -> None:
    """SoftHSM, card and NSS sign by their label, and say themselves that the signature is good."""
    tool = ["pkcs11-tool", "--module", home.merged.module, "--token-label", label, "--login", "--pin", pin]
    mechanism = ["-m", "SHA256-RSA-PKCS", "--id", key]
    (work / "data").write_bytes(DATA)
    if label == nss.DATABASE:
        home.merged.run(*tool, "--keypairgen", "--key-type", KEYS["rsa"][0], "--id", key)

    home.merged.run(*tool, "--sign", *mechanism, "-i", work / "data", "-o", work / "signature")

    verify = ["--verify", *mechanism, "-i", work / "data", "--signature-file", work / "signature"]
    assert "Signature is valid" in home.merged.run(*tool, *verify).stdout


# ---- p11tool ----


def test_p11tool(home: House, work: Path) -> None:
    """It lists tokens and objects as it does where they are alone; its own test of a key does not fail."""
    alone, merged = both(home, work, "p11tool.sh")
    tokens, objects = merged.split("Object 0:", 1)

    assert parts(alone.split("Object 0:", 1)[0], TOKEN) <= parts(tokens, TOKEN)
    assert alone.split("Object 0:", 1)[1] == objects


# ---- NSS ----


def test_modutil_and_certutil(home: House, work: Path) -> None:
    """NSS shows the tokens as it does where they are alone, lists certificates and has a request signed."""
    for part in ("alone", "merged"):
        (work / part).mkdir()
        subprocess.run(
            ["certutil", "-N", "-d", f"sql:{work / part}", "--empty-password"], check=True, timeout=60
        )
    # There are a card that OpenSC does not know and a token that does not answer: modutil fails, at the end.
    alone, merged = (
        run(
            each, work / each.name, "nss.sh", {PATH: each.module, DATABASE: f"sql:{work / each.name}"}, status
        )
        for each, status in ((home.alone, 0), (home.merged, None))
    )

    assert {part for part in parts(alone, BLANK) if part.startswith("Slot: SoftHSM")} <= parts(merged, BLANK)
    assert ["mine:ec", "mine:rsa"] == sorted(re.findall(r"(?m)^(\S+) +u,u,u$", merged))
    request = ["openssl", "req", "-verify", "-noout", "-subject", "-in", str(work / "merged" / "request.pem")]
    said = subprocess.run(request, check=True, capture_output=True, text=True, timeout=60)
    assert "verify OK" in said.stdout + said.stderr
    assert "CN = mine" in said.stdout


# ---- OpenSSH ----


def test_ssh_keygen(home: House) -> None:
    """It prints the public keys of all tokens: those of the tokens alone, and the card's."""
    alone, merged = (
        set(each.run("ssh-keygen", "-D", each.module, "-e").stdout.splitlines())
        for each in (home.alone, home.merged)
    )

    assert 4 == len(alone)
    assert alone < merged
    assert any("PIV" in line for line in merged)


def test_ssh(home: House, work: Path) -> None:
    """Ssh logs in with a key on one of the tokens, as its configuration says."""
    config = recipe("ssh_config", {LIBRARY: home.merged.module})
    with sshd(work, authorized=home.public("archive", "ec")) as port:
        assert 1 == logins(home.merged, work, port, "ssh.sh", 1, config=config)


def test_ssh_agent(home: House, work: Path) -> None:
    """ssh-agent signs for a login with a key on one of the tokens."""
    with sshd(work, authorized=home.public("archive", "ec")) as port:
        assert 1 == logins(home.merged, work, port, "agent.sh", 1)


# ---- OpenSSL and curl ----


@pytest.fixture(scope="module")
def engine(home: House) -> Path:
    """Return OpenSSL's configuration, which names the engine and p11host."""
    path = home.directory / "openssl.cnf"
    path.write_text(recipe(path.name, {LIBRARY: home.merged.module}))
    return path


@pytest.fixture(scope="module")
def server(home: House, engine: Path) -> Iterator[int]:
    """Return the port of a server whose key is on a token, and that wants clients to show certificates."""
    port = free_port()
    files = {"server.pem": home.certificate("archive", "ec"), "authority.pem": home.authority}
    script = recipe("s_server.sh", {OPENSSL: engine, "4433": port, **files})
    with serving(home, script):
        await_listener(port)
        yield port


@contextmanager
def serving(home: House, script: str) -> Iterator[None]:
    """Run a server until the end of the `with`."""
    with (home.directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-ec", script], env=home.merged.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.kill()
        process.wait(60)


def test_openssl_signs(home: House, engine: Path, work: Path) -> None:
    """OpenSSL signs by its engine with the key that a URI names."""
    run(home.merged, work, "openssl.sh", {OPENSSL: engine})

    assert home.has_signed("mine", "rsa", DATA, (work / "signature").read_bytes())


@pytest.mark.parametrize("name", ["s_client.sh", "curl.sh"])
def test_tls(home: House, engine: Path, server: int, name: str) -> None:
    """Client and server each prove who they are with a key on a token: openssl's own, and curl."""
    files = {"authority.pem": home.authority}
    if name == "s_client.sh":
        files["client.pem"] = home.certificate("mine", "rsa")
    script = recipe(name, {OPENSSL: engine, "localhost:4433": f"localhost:{server}", **files})

    page = home.merged.run("sh", "-ec", script).stdout

    assert "Verify return code: 0 (ok)" in page
    assert "CN=mine rsa" in page


# ---- Python ----


def follow(name: str) -> list[str]:
    """Follow a recipe in Python; return the signature."""
    names: dict[str, Any] = {}
    exec(recipe(name, {}), names)  # noqa: S102 (the document's own words)
    return [names["signature"].hex()]


@pytest.mark.parametrize("name", ["python_pkcs11.py", "pykcs11.py"])
def test_python(home: House, name: str) -> None:
    """python-pkcs11 and PyKCS11 find the token among all others and sign with its key."""
    (signature,) = Host(home.merged.env).play(follow, name)

    assert home.has_signed("mine", "rsa", b"data", bytes.fromhex(signature))


# ---- views ----


def test_one_module_by_a_link(home: House, work: Path) -> None:
    """A program that loads p11host-NAME.so has what it has of the provider itself, word for word."""
    link = work / "p11host-softhsm.so"
    link.symlink_to(home.merged.module)

    for asked in (["-L"], ["-I"], ["-M", "--token-label", "mine"]):
        alone = home.alone.run("pkcs11-tool", "--module", home.alone.module, *asked).stdout
        linked = home.merged.run("pkcs11-tool", "--module", link, *asked).stdout
        assert SLOT.split(alone) == SLOT.split(linked)


def test_one_module_by_environment(home: House) -> None:
    """P11HOST_MODULE shows one module to a program that knows nothing of it."""
    shown = home.merged.run("ssh-keygen", "-D", home.merged.module, "-e", env={"P11HOST_MODULE": "softhsm"})

    alone = home.alone.run("ssh-keygen", "-D", home.alone.module, "-e")
    assert [alone.stdout, alone.stderr] == [shown.stdout, shown.stderr]


def test_one_module_by_parameter(home: House, work: Path) -> None:
    """NSS hands a parameter on: with -string module=NAME it shows that one, in the provider's words."""
    one = ["-string", "module=softhsm"]
    ours, theirs = (
        modutil_lists(each, work / part, *options)
        for each, part, options in ((home.merged, "ours", one), (home.alone, "theirs", []))
    )

    assert BLANK.split(theirs)[2:] == BLANK.split(ours)[2:]
    assert "Manufacturer: SoftHSM" in ours


def modutil_lists(reach: Reach, database: Path, *options: str) -> str:
    """Return what modutil says of a module in a database of its own: whoever opens it loads the module."""
    database.mkdir()
    subprocess.run(["certutil", "-N", "-d", f"sql:{database}", "--empty-password"], check=True, timeout=60)
    words = ["modutil", "-dbdir", f"sql:{database}", "-force"]
    reach.run(*words, "-add", "this", "-libfile", reach.module, *options)
    return reach.run(*words, "-list", "this").stdout


#: A machine as packages leave it, but for where SoftHSM's tokens and pcscd's socket are.
MACHINE = """\
mount --bind {soft} /etc/softhsm/softhsm2.conf
mount --bind {directory} /run/pcscd
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to show programs other files")
def test_nothing_configured(home: House, work: Path) -> None:
    """With no configuration but p11-kit's p11host shows what p11-kit's proxy shows, slot by slot."""
    files = MACHINE.format(soft=home.alone.env["SOFTHSM2_CONF"], directory=home.directory)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("P11HOST", "XDG"))}

    def shown(*command: object) -> str:
        words = ["unshare", "--mount", "sh", "-ec", files + 'exec "$@"', "sh", *map(str, command)]
        env = bare | {"HOME": str(work), "XDG_RUNTIME_DIR": str(work)}
        done = subprocess.run(words, env=env, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    tool = ["pkcs11-tool", "-L", "--module"]
    ours = shown(sys.executable, "-P", "-m", "p11host", "run", "--", *tool, home.merged.module)
    proxy = shown(*tool, next(Path("/usr/lib").glob("*/p11-kit-proxy.so")))

    assert SLOT.split(proxy) == SLOT.split(ours)
    assert {*LABELS, CARD} <= set(re.findall(r"token label +: (.+)", ours))
    assert {*LABELS, CARD} <= set(re.findall(r"(?m)^    token: (.+)$", shown("p11-kit", "list-modules")))


# ---- the hostile ones ----


def test_the_hostile_are_hostile(home: House) -> None:
    """One helper crashes, one hangs and one lies in one program, as the log says; the good keys are there."""
    before = {name: len(ended(home, name)) for name in HOSTILE}
    lies = len(home.events("call.disbelieved", module="liar", function="C_FindObjects"))

    said = home.merged.run("ssh-keygen", "-D", home.merged.module, "-e").stdout

    assert home.public("mine", "ec").strip() in said
    await_true(lambda: len(ended(home, "crasher")) > before["crasher"])
    await_true(lambda: len(ended(home, "hanger")) > before["hanger"])
    assert {"SIGSEGV"} == {each["signal"] for each in ended(home, "crasher")}
    assert {"C_OpenSession"} == {each["function"] for each in ended(home, "crasher")}
    assert {"C_GetTokenInfo"} == {each["function"] for each in ended(home, "hanger")}
    await_true(lambda: len(home.events("call.disbelieved", module="liar", function="C_FindObjects")) > lies)


def ended(home: House, name: str) -> list[Any]:
    """Return the ends of a module's helpers that were not in order."""
    return [each for each in home.events("helper.ended", module=name) if "signal" in each]


def test_hostile_ones_disturb_nobody(home: House) -> None:
    """A program that holds a session goes on signing while it looks at all slots and helpers die of that."""
    crashed, hung = len(ended(home, "crasher")), len(ended(home, "hanger"))

    signatures, refused = Host(home.merged.env).play(sign_while_others_die)

    assert 1 == len(set(signatures))
    assert home.has_signed("archive", "rsa", DATA, bytes.fromhex(signatures[0]))
    assert {"CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT"} <= set(refused)
    await_true(lambda: len(ended(home, "crasher")) > crashed)
    await_true(lambda: len(ended(home, "hanger")) > hung)


def label_of(lib: Any, slot: int) -> str:
    """Return a token's label, "" where it says none."""
    try:
        return str(lib.getTokenInfo(slot).label).strip()
    except PyKCS11.PyKCS11Error:
        return ""


def sign_while_others_die() -> list[list[str]]:
    """Log in at a token; look at each slot, open a session with each, and sign after each of that."""
    lib: Any = PyKCS11.PyKCS11Lib()
    lib.load(str(shim_path()))
    slots = lib.getSlotList(tokenPresent=True)
    session = lib.openSession(max(slots, key=lambda slot: label_of(lib, slot) == LABELS[1]))
    session.login("123456")
    about = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY), (PyKCS11.CKA_LABEL, "rsa")]
    (key,) = session.findObjects(about)
    signatures, refused = [], []
    for slot in slots:
        for ask in (lib.getTokenInfo, lib.openSession):
            try:
                ask(slot)
            except PyKCS11.PyKCS11Error as error:
                refused.append(PyKCS11.CKR[error.value])
            signature = session.sign(key, DATA, PyKCS11.Mechanism(PyKCS11.CKM_SHA256_RSA_PKCS))
            signatures.append(bytes(signature).hex())
    return [signatures, refused]
