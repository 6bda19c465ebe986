"""The screens in docs/, taken from a real terminal: tmux, 80 columns and 24 lines.

    .venv/bin/python scripts/captures.py           # all of them
    .venv/bin/python scripts/captures.py list top  # some

Run by hand, where tmux is installed (apt-get install tmux); what it writes is to be looked at. A screen
stands in a page below a line `<!-- screen: NAME -->`. Everything is made in STAGE, which must not be there
before and is gone afterwards.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p11host import P11HostError, helper_path, shim_path
from p11host.throwaway import Token, add_token, make_token

ROOT = Path(__file__).resolve().parent.parent
#: Short, for it is seen, and the same each time.
STAGE = Path("/tmp/demo")  # noqa: S108 (made new, for us alone)
COLUMNS, LINES = 80, 24
PATIENCE_S = 60
PROMPT = "$ "
SCREEN = re.compile(r"(<!-- screen: ([a-z-]+) -->\n)```\n.*?\n```\n", re.DOTALL)
#: What a kernel's version says of who built it.
KERNEL = re.compile(r"(Linux [0-9.]+)-[^ ,]+")
URI = "pkcs11:token=web;object={}?pin-source=file:/tmp/demo/pin"
#: A web server's calls, more or less.
APPLICATION = """
import p11host, pkcs11, time
token = p11host.lib().get_token(token_label="web")
with token.open(user_pin="123456") as session:
    print("ready", flush=True)
    while True:
        key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label="www")
        key.sign(b"x" * 32, mechanism=pkcs11.Mechanism.SHA256_RSA_PKCS)
        session.generate_random(256)
        time.sleep(0.01)
"""


@dataclass(frozen=True)
class Shot:
    """A screen: what is typed, the words by which it is there, and what ends it."""

    name: str
    command: str
    until: str = ""
    keys: Sequence[str] = ()
    history: bool = True
    most: int = 60


SHOTS = (
    Shot("list", "p11host list"),
    Shot("show", "p11host show 'pkcs11:object=www;type=cert'"),
    Shot("doctor", "p11host doctor"),
    Shot("discover", "p11host discover"),
    Shot("status", "p11host status"),
    Shot("top", "p11host top", until=r"C_Sign +[1-9](.|\n)*C_SignInit", keys=("C-c",), history=False),
    Shot(
        "trace", "p11host trace -p {pid}", until=r"C_SignInit(.|\n)*C_GenerateRandom", keys=("C-c",), most=44
    ),
    Shot(
        "keygen",
        "p11host keygen '" + URI.format("big") + "' rsa:4096",
        until="making rsa:4096",
        history=False,
    ),
)


def main(names: Sequence[str]) -> None:
    """Take the screens of these names, or all, and write them into the pages that have them."""
    if not shutil.which("tmux"):
        sys.exit("captures: tmux is not installed: apt-get install tmux")
    shots = [shot for shot in SHOTS if not names or shot.name in names]
    with staged() as environ, application(environ) as pid, terminal(environ) as tmux:
        taken = {shot.name: take(tmux, shot, pid) for shot in shots}
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = SCREEN.sub(
            lambda found: found[1] + fenced(taken[found[2]]) if found[2] in taken else found[0], text
        )
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"captures: {page.relative_to(ROOT)}")


def fenced(screen: str) -> str:
    """Return a screen as Markdown has it."""
    return f"```\n{screen}\n```\n"


@contextmanager
def staged() -> Iterator[dict[str, str]]:
    """Make tokens, certificates and a configuration; yield the environment in which commands find them."""
    STAGE.mkdir(mode=0o700)
    try:
        token = make_token(STAGE, "web")
        add_token(token, "code signing")
        # By these names nothing of where this was built is seen.
        (STAGE / "p11host.so").symlink_to(shim_path())
        (STAGE / "p11host-helper").symlink_to(helper_path())
        (STAGE / "p11host.toml").write_text(configuration(token))
        (STAGE / "pin").write_text(token.pin)
        (STAGE / "pin").chmod(0o400)
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("P11HOST_", "TMUX"))
        }
        environ |= {
            "P11HOST_CONFIG": str(STAGE / "p11host.toml"),
            "P11HOST_SOCKET": str(STAGE / "broker.sock"),
            "P11HOST_SHIM": str(STAGE / "p11host.so"),
            "P11HOST_HELPER": str(STAGE / "p11host-helper"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PS1": PROMPT,
        }
        furnish(environ)
        yield environ
    finally:
        while STAGE.exists():  # the broker, which ends now, removes its own
            shutil.rmtree(STAGE, ignore_errors=True)


def configuration(token: Token) -> str:
    """Return a configuration of three providers."""
    (STAGE / "nss").mkdir()
    return f"""[broker]
idle = 0
[module.softhsm]
path = "{token.provider}"
env = {{ SOFTHSM2_CONF = "{token.env["SOFTHSM2_CONF"]}" }}
[module.nss]
path = "/usr/lib/x86_64-linux-gnu/libsoftokn3.so"
reserved = "configdir='sql:{STAGE}/nss' tokenDescription='nss'"
[module.opensc]
path = "/usr/lib/x86_64-linux-gnu/pkcs11/opensc-pkcs11.so"
"""


def furnish(environ: dict[str, str]) -> None:
    """Put keys and certificates on the tokens: a root, a server's, and one that has expired."""
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    issue = "openssl x509 -req -CA ca.pem -CAkey ca.key"
    alternative = "subjectAltName=DNS:www.example.org,DNS:example.org"
    script = f"""
openssl req -x509 {curve} -keyout ca.key -out ca.pem -subj '/CN=Example Root CA' -days 3650
openssl req -newkey rsa:2048 -nodes -keyout www.key -out www.csr -subj '/O=Example Ltd/CN=www.example.org'
{issue} -in www.csr -days 90 -out www.pem -extfile <(echo {alternative})
openssl req {curve} -keyout old.key -out old.csr -subj '/CN=old.example.org'
{issue} -in old.csr -days 0 -out old.pem
p11host import '{URI.format("www")}' www.key
p11host import '{URI.format("www")}' www.pem
p11host import '{URI.format("old")}' old.pem
p11host import '{URI.format("root")}' ca.pem
p11host keygen '{URI.format("session")}' aes:256
p11host keygen '{URI.format("release").replace("web", "code%20signing")}' ec:p384
"""
    subprocess.run(["bash", "-ec", script], cwd=STAGE, env=environ, check=True, capture_output=True)


@contextmanager
def application(environ: dict[str, str]) -> Iterator[int]:
    """Run a program that uses a key all the time; yield its pid."""
    command = [sys.executable, "-P", "-c", APPLICATION]
    with subprocess.Popen(command, env=environ, cwd=STAGE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.terminate()


@contextmanager
def terminal(environ: dict[str, str]) -> Iterator[list[str]]:
    """Open a terminal with a shell; yield the beginning of what speaks with it."""
    tmux = ["tmux", "-S", str(STAGE / "tmux"), "-f", os.devnull]
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    shell = ["bash", "--norc", "--noprofile"]
    subprocess.run([*tmux, "new-session", "-d", *size, *shell], env=environ, cwd=STAGE, check=True)
    try:
        yield tmux
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def take(tmux: list[str], shot: Shot, pid: int) -> str:
    """Type a command and return what is on the screen, from its line to the next prompt."""
    subprocess.run([*tmux, "send-keys", "clear; tmux clear-history", "Enter"], check=True)
    wait(tmux, shot, lambda text: text.strip() == PROMPT.strip())
    subprocess.run([*tmux, "send-keys", shot.command.format(pid=pid), "Enter"], check=True)
    wait(tmux, shot, lambda text: seen(text, shot.until))
    screen = "" if shot.history else shown(tmux, shot)
    for key in shot.keys:
        subprocess.run([*tmux, "send-keys", key], check=True)
    text = wait(tmux, shot, lambda text: seen(text, ""))
    if shot.history:
        screen = "\n".join(text.rstrip().splitlines()[:-1][: shot.most])
    screen = KERNEL.sub(r"\1", screen.rstrip())
    print(f"captures: {shot.name}:\n{screen}")
    return screen


def seen(text: str, until: str) -> bool:
    """Tell whether a command has shown what is waited for: for "" the next prompt."""
    lines = text.rstrip().splitlines()
    return bool(re.search(until, text)) if until else len(lines) > 1 and lines[-1] == PROMPT.strip()


def shown(tmux: list[str], shot: Shot) -> str:
    """Return what the terminal shows, with all that has left it at the top if that is wanted."""
    history = ["-S", "-"] if shot.history else []
    words = [*tmux, "capture-pane", "-p", *history]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def wait(tmux: list[str], shot: Shot, there: Callable[[str], bool]) -> str:
    """Return what is shown as soon as it is what is waited for."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        text = shown(tmux, shot)
        if there(text):
            return text
        time.sleep(0.05)
    sys.exit(f"captures: {shot.name}: not there in {PATIENCE_S} s, but:\n{text}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except P11HostError as error:
        sys.exit(f"captures: {error}")
