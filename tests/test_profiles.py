"""What a module is allowed: known providers, what the configuration adds, what faults in it are called."""

import os
import re
import tomllib
from pathlib import Path

import pytest
from brokers import module

from p11host import conf_path
from p11host.config import Module, choose, load
from p11host.errors import ConfigError, P11HostError
from p11host.sandbox import kernel
from p11host.sandbox.confine import Confinement, state
from p11host.sandbox.explain import explain, shortcomings
from p11host.sandbox.kernel import Support
from p11host.sandbox.known import FILE, profiles
from p11host.sandbox.packed import owner
from p11host.sandbox.resolve import AbsentError, Profile, expand, resolve
from p11host.sandbox.settings import RIGHTS, Grants

SYSCALLS = Path(__file__).parent.parent / "specs" / "syscalls.toml"
PROMISED = {
    *(
        "softhsm2",
        "opensc",
        "nss",
        "tpm2-pkcs11",
        "yubihsm",
        "ykcs11",
        "cloudhsm",
        "luna",
        "nshield",
        "kmsp11",
    ),
}


def one(directory: Path, text: str) -> Module:
    """Return the one module of a configuration of that text."""
    file = directory / "p11host.toml"
    file.write_text(text)
    (found,) = load(choose(file, {})).modules
    return found


def profile(directory: Path, text: str, **environ: str) -> Profile:
    """Return the profile of the one module of a configuration of that text."""
    found = one(directory, text)
    return resolve(found, dict(environ) | dict(found.env))


def allowed(found: Profile, right: str) -> set[str]:
    """Return the paths that a profile allows for something, without those that all modules have."""
    strict = {path for _, path in profiles().strict.paths()}
    return {each.path for each in found.paths if each.right == right} - strict


# ---- known providers ----


def test_providers_are_known() -> None:
    """The providers that are promised have profiles, each of them in the file's grammar, as all others."""
    known = profiles().providers
    table = tomllib.loads((conf_path() / FILE).read_text())
    found = [each for provider in table["provider"].values() for each in provider.get("found", ())]

    assert set(known) >= PROMISED
    assert all(provider.title and provider.files for provider in known.values())
    assert all(re.compile(each["pattern"]).groups == 1 and each["gives"] in RIGHTS for each in found)
    assert all({"in-file", "in-variable", "in-reserved"} & each.keys() for each in found)
    paths = [path for provider in known.values() for _, path in provider.grants.paths()]
    assert [] == [path for path in paths if not path.startswith(("/", "~/", "$", "@"))]


def test_softhsm(tmp_path: Path) -> None:
    """SoftHSM may change the directory of tokens that its own configuration names, and read that."""
    conf = tmp_path / "soft.conf"
    conf.write_text(
        f"# directories.tokendir = /no\n directories.tokendir =  {tmp_path}/my tokens \nlog.level = ERROR\n"
    )
    found = profile(tmp_path, module("soft", Path("/x/libsofthsm2.so"), env={"SOFTHSM2_CONF": str(conf)}))

    assert "softhsm2" == found.name
    assert {f"{tmp_path}/my tokens"} == allowed(found, "write")
    assert str(conf) in allowed(found, "read")
    assert not found.network


def test_nss(tmp_path: Path) -> None:
    """Softokn may change the database that its string for C_Initialize names, whatever form that has."""
    for text in ("configdir='sql:/home/me/my nss' flags=", 'configdir="/home/me/my nss"'):
        found = profile(tmp_path, module("nss", Path("/x/libsoftokn3.so"), reserved=text))

        assert {"/home/me/my nss"} == allowed(found, "write")


@pytest.mark.parametrize(
    ("tcti", "right", "path"),
    [
        ("device:/dev/tpm7", "devices", "/dev/tpm7"),
        ("swtpm:path=/run/tpm/sock", "sockets", "/run/tpm/sock"),
        ("", "write", "/home/me/.tpm2_pkcs11"),
    ],
)
def test_tpm(tmp_path: Path, tcti: str, right: str, path: str) -> None:
    """tpm2-pkcs11 may use the TPM that its environment names, and the store there or where it always is."""
    env = {"TPM2_PKCS11_TCTI": tcti}
    found = profile(tmp_path, module("tpm", Path("/x/libtpm2_pkcs11.so.0"), env=env), HOME="/home/me")

    assert path in allowed(found, right)


def test_opensc(tmp_path: Path) -> None:
    """OpenSC may talk to pcscd where that is, and to nobody else."""
    for env, socket in (({}, "/run/pcscd/pcscd.comm"), ({"PCSCLITE_CSOCK_NAME": "/x/comm"}, "/x/comm")):
        found = profile(tmp_path, module("sc", Path("/x/opensc-pkcs11.so"), env=env), HOME="/home/me")

        assert {socket} == allowed(found, "sockets")
        assert {"/home/me/.cache/opensc", "/home/me/.eid/cache"} == allowed(found, "write")


def test_unknown(tmp_path: Path) -> None:
    """A provider that nobody knows may read its own file, and has nothing that not all have."""
    found = profile(tmp_path, module("x", Path("/x/vendor.so")), HOME="/home/me")

    assert ("strict", False, False, False) == (found.name, found.network, found.processes, found.ipc)
    assert {"read": {"/x/vendor.so"}} == {
        right: paths for right in RIGHTS if (paths := allowed(found, right))
    }


def test_link_and_name(tmp_path: Path) -> None:
    """A link is known by what it leads to; a name in the configuration counts before that of the file."""
    (tmp_path / "libsofthsm2.so").touch()
    link = tmp_path / "vendor.so"
    link.symlink_to(tmp_path / "libsofthsm2.so")

    assert "softhsm2" == profile(tmp_path, module("x", link)).name
    assert "strict" == profile(tmp_path, module("x", link, sandbox={"profile": "strict"})).name
    assert "luna" == profile(tmp_path, module("x", link, sandbox={"profile": "luna"})).name


def test_strict_default_has_no_secrets() -> None:
    """What all modules have is nobody's own."""
    forbidden = (
        "/home",
        "/root",
        "/var",
        "/run",
        "/etc/shadow",
        "/etc/ssl/private",
        "/proc",
        "/",
        "/etc",
        "/dev",
    )

    assert profiles().strict == Grants(read=profiles().strict.read, devices=("/dev/null",))
    assert not set(forbidden) & set(profiles().strict.read)


# ---- variables ----


def test_expansion() -> None:
    """Variables are those of the provider; one that is not set has a value for that, or leads nowhere."""
    environ = {"HOME": "/home/me", "A": "/a", "EMPTY": "", "TILDE": "~/x"}

    for text, path in {
        "~/x": "/home/me/x",
        "$A/b": "/a/b",
        "${A}b": "/ab",
        "${B:-/c}/d": "/c/d",
        "${EMPTY:-~/e}": "/home/me/e",
        "$TILDE/y": "/home/me/x/y",
        "/~": "/~",
    }.items():
        assert path == expand(text, environ)
    for text in ("$B/x", "${B}", "${EMPTY}"):
        with pytest.raises(AbsentError):
            expand(text, environ)


# ---- the configuration ----


def test_every_key(tmp_path: Path) -> None:
    """Each key of the table arrives; a provider keeps what is known of it, and ports add up."""
    text = (
        module("x", Path("/x/vendor.so"), env={"D": str(tmp_path)})
        + f"""
[module.x.sandbox]
require = true
read = ["{tmp_path}", "-/not/there"]
write = ["$D"]
execute = ["/bin/true"]
devices = ["/dev/null"]
sockets = ["-/run/x", "@y"]
network = [443, 80]
processes = true
ipc = true
memory = 512
files = 64
tasks = 99
"""
    )
    found = profile(tmp_path, text)

    assert {"/x/vendor.so", str(tmp_path), "/not/there"} <= allowed(found, "read")
    assert ({str(tmp_path)}, {"/run/x", "@y"}) == (allowed(found, "write"), allowed(found, "sockets"))
    assert "/bin/true" in allowed(found, "execute")
    assert ((443, 80), True, True) == (found.network, found.processes, found.ipc)
    settings = found.settings
    assert (True, True, 512, 64, 99) == (
        settings.on,
        settings.require,
        settings.memory,
        settings.files,
        settings.tasks,
    )


A_PATH = "expected a path that begins with /, ~/ or $NAME, or with - before it if it may be absent"
NONE = "no such file or directory; correct it, or write -/not/there if it may be absent"
UNSET = "$NO_SUCH is not in the provider's environment; set it in env, or write the path out"
A_SWITCH = 'expected "on", "off" or a table [module.NAME.sandbox] (docs/sandbox.md)'
A_PROFILE = 'expected "strict" or the name of a provider in conf/sandbox.toml'
PORTS = "expected true, false or an array of TCP ports, [443]"
FAULTS = {
    "[module.x.sandbox]\nreed = []": "4: module.x.sandbox.reed: unknown key; did you mean 'read'?",
    "[module.x.sandbox]\n\nread = ['/etc', '/not/there']": f"5: module.x.sandbox.read: /not/there: {NONE}",
    "[module.x.sandbox]\nwrite = ['$NO_SUCH/x']": f"4: module.x.sandbox.write: $NO_SUCH/x: {UNSET}",
    "[module.x.sandbox]\nread = ['etc']": f'4: module.x.sandbox.read.0: {A_PATH}, not "etc"',
    "[module.x.sandbox]\nnetwork = [0]": f"4: module.x.sandbox.network: {PORTS}, not an array",
    "[module.x.sandbox]\nnetwork = 443": f"4: module.x.sandbox.network: {PORTS}, not 443",
    "[module.x.sandbox]\nmemory = 1": "4: module.x.sandbox.memory: expected a number of MiB from 64, not 1",
    "[module.x.sandbox]\nprofile = 'nosuch'": f'4: module.x.sandbox.profile: {A_PROFILE}, not "nosuch"',
    "sandbox = 'of'": f'3: module.x.sandbox: {A_SWITCH}, not "of"',
    "user = 'a b'": '3: module.x.user: expected the name of a user, not "a b"',
}


@pytest.mark.parametrize(("text", "fault"), FAULTS.items(), ids=range(len(FAULTS)))
def test_faults(tmp_path: Path, text: str, fault: str) -> None:
    """Each fault is told with its file, line and key, and what to do."""
    file = tmp_path / "p11host.toml"
    file.write_text(f'[module.x]\npath = "/x.so"\n{text}')
    with pytest.raises(ConfigError) as caught:
        load(choose(file, {}))

    assert [f"{file}:{fault}"] == list(caught.value.problems)


def test_a_user_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`user` and `group` are refused where the broker cannot become anybody, and where there is none such."""
    with_user = one(tmp_path, module("x", Path("/x.so"), user="p11host-nobody-has-this-name"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(P11HostError) as nobody:
        owner(with_user)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(P11HostError) as no_root:
        owner(with_user)

    assert (
        "module x: getpwnam(): name not found: 'p11host-nobody-has-this-name'; correct `user` or `group`"
        == str(nobody.value)
    )
    assert str(no_root.value).startswith("module x: `user` and `group` need a broker that runs as root")


# ---- changes ----


def test_a_change_is_seen(tmp_path: Path) -> None:
    """A profile is made anew when a file that names paths changes, and when a missing path comes to be."""
    conf, tokens = tmp_path / "soft.conf", tmp_path / "tokens"
    conf.write_text(f"directories.tokendir = {tokens}\n")
    found = one(tmp_path, module("soft", Path("/x/libsofthsm2.so"), env={"SOFTHSM2_CONF": str(conf)}))
    confinement = Confinement()
    first = confinement.of(found)

    assert first is confinement.of(found)
    tokens.mkdir()
    second = confinement.of(found)
    assert first != second
    conf.write_text(f"directories.tokendir = {tmp_path}/elsewhere\n")
    assert second.packed != confinement.of(found).packed


# ---- in words ----


def test_in_words(tmp_path: Path) -> None:
    """All that a profile allows is told, with who allows it, and all that it does not."""
    found = profile(tmp_path, module("x", Path("/x/vendor.so"), sandbox={"processes": True}))
    told = list(explain(found, exists={"/x/vendor.so": False}))
    by_what = {each.what: each for each in told}

    assert {("read", "/x/vendor.so", "its library", False)} == {
        (each.what, each.detail, each.source, each.exists) for each in told if each.detail == "/x/vendor.so"
    }
    assert by_what["start processes"].may
    assert not by_what["use the network"].may
    assert [] == list(shortcomings(found, Support(7, seccomp=True)))


def test_shortcomings(tmp_path: Path) -> None:
    """What the kernel lacks, what it cannot tell apart, and that a sandbox is off, is told."""
    opensc = profile(tmp_path, module("x", Path("/x/opensc-pkcs11.so")))
    off = profile(tmp_path, module("x", Path("/x/vendor.so"), sandbox="off"))

    assert ["This kernel has no Landlock: its files are not confined."] == list(
        shortcomings(opensc, Support(0, seccomp=True))
    )[:1]
    assert 3 == len(list(shortcomings(opensc, Support(4, seccomp=True))))
    assert ["The sandbox of this module is off: none of this is enforced."] == list(
        shortcomings(off, Support(7, seccomp=True))
    )


def test_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status says by which profile a module is confined, and what of it is not enforced."""
    soft = one(tmp_path, module("x", Path("/x/libsofthsm2.so")))
    monkeypatch.setattr("p11host.sandbox.confine.support", lambda: Support(0, seccomp=False))

    assert "softhsm2, without Landlock, without seccomp" == state(soft)
    assert kernel.support() == kernel.support()


# ---- the table of system calls ----


def test_system_calls_are_in_one_place() -> None:
    """No call is in the table twice, nor allowed in all cases and in some only; nothing forbidden is."""
    table = tomllib.loads(SYSCALLS.read_text())
    calls = [call for group in table["allow"].values() for call in group]
    ruled = {rule["call"] for rule in table["rule"]}

    assert sorted(set(calls)) == sorted(calls)
    assert not set(calls) & {*table["absent"], *ruled}
    assert ["sockets", "network", "processes", "ipc"] == table["capabilities"]
    forbidden = {
        "execve",
        "ptrace",
        "mount",
        "bpf",
        "keyctl",
        "init_module",
        "unshare",
        "setns",
        "process_vm_readv",
        "socket",
    }
    assert not forbidden & set(calls)


def test_a_link_to_itself(tmp_path: Path) -> None:
    """A provider's name that leads in a circle is that of an unknown provider; its module can be told of."""
    (tmp_path / "loop.so").symlink_to("loop.so")
    module = one(tmp_path, f'[module.one]\npath = "{tmp_path}/loop.so"\n')

    assert profiles().of(module.path) is None
    assert state(module).startswith("strict")
    assert "strict" == resolve(module, {}).name


def test_a_variable_that_names_itself() -> None:
    """A path with a variable that is made of itself is left out, like one with a variable nobody set."""
    with pytest.raises(AbsentError):
        expand("$A/x", {"A": "$B", "B": "${A}"})
