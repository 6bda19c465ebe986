"""What becomes of programs beside a hostile provider, by p11-kit's proxy and by p11host, as a table.

    python tests/programs_table.py

as root, which alone can show p11-kit other files; prints the table of docs/programs.md. Each program follows
its recipe with a good token. Knows both ways. Must not know what the recipes do.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from brokers import module
from house import furnish
from life import TESTS, Workshop
from recipe import recipe
from test_programs import DATABASE, LIBRARY, OPENSSL, PATH

from p11host import shim_path
from p11host.start import private_broker
from p11host.throwaway import Token, add_token, make_token

PATIENCE_S = 30
#: Milliseconds that p11host waits for what hangs, here.
SHORT = 1000
COMPANY = {
    "alone": "",
    "and one that crashes": "segv call C_OpenSession",
    "and one that hangs": "sleep call C_GetTokenInfo",
    "and one that lists for ever": "round lie C_FindObjects",
}
#: By recipe: the program, and what is replaced in it.
PROGRAMS = {
    "pkcs11-tool.sh": "pkcs11-tool",
    "p11tool.sh": "p11tool",
    "nss.sh": "modutil, certutil",
    "keygen": "ssh-keygen -D",
    "openssl.sh": "openssl",
    "pykcs11.py": "PyKCS11",
}
PROXY = next(Path("/usr/lib").glob("*/p11-kit-proxy.so"), Path("p11-kit-proxy.so"))
PACKAGES = "/usr/share/p11-kit/modules"


def script(name: str, library: Path, work: Path) -> str:
    """Return what a program is to do in its directory."""
    places: dict[str, object] = {PATH: library}
    if name == "keygen":
        return f"ssh-keygen -D {library} -e >keys; test $(wc -l <keys) -ge 4"
    if name == "nss.sh":
        places[DATABASE] = f"sql:{work}"
        # Its last command fails where a token does not say what it is.
        *words, _ = recipe(name, places).strip().split("\n")
        return "\n".join([f"certutil -N -d sql:{work} --empty-password", *words])
    if name == "openssl.sh":
        (work / "openssl.cnf").write_text(recipe("openssl.cnf", {LIBRARY: library}))
        places = {OPENSSL: work / "openssl.cnf"}
    if name == "pykcs11.py":
        (work / name).write_text(recipe(name, {}))
        return f"P11HOST_SHIM={library} {sys.executable} {work / name}"
    # p11tool has p11-kit's modules by itself, and cannot load the proxy.
    return recipe(name, places).replace(f' --provider "{PROXY}"', "")


def outcome(name: str, library: Path, env: Mapping[str, str], before: str) -> str:
    """Run a program; return in a word what came of it."""
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "data").write_text("data")
        (work / "pin").write_text("123456\n")
        text = f"{before}\ncd {work}\n{script(name, library, work)}"
        try:
            done = subprocess.run(
                ["unshare", "--mount", "timeout", "--signal=KILL", str(PATIENCE_S), "sh", "-ec", text],
                env=os.environ | dict(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=2 * PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hangs"
    if done.returncode in (-9, 137):
        return "hangs"
    if done.returncode > 128 or done.returncode < 0:
        return "crashes"
    return "works" if done.returncode == 0 else "fails"


@contextmanager
def p11kit(
    directory: Path, token: Token, hostile: Path, wish: str
) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Yield p11-kit's proxy, the environment of both providers, and what shows p11-kit just these."""
    files = directory / "modules"
    files.mkdir(exist_ok=True)
    (files / "softhsm.module").write_text(f"module: {token.provider}\n")
    bad = files / "hostile.module"
    bad.unlink(missing_ok=True)
    if wish:
        bad.write_text(f"module: {hostile}\npriority: 10\n")
    yield PROXY, dict(token.env) | {"HOSTILE": wish}, f"mount --bind {files} {PACKAGES}"


@contextmanager
def ours(
    directory: Path, token: Token, hostile: Path, wish: str
) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Yield p11host with a broker that has both."""
    config = directory / "p11host.toml"
    bad = module("hostile", hostile, env={"HOSTILE": wish}, deadlines={"short": SHORT}) if wish else ""
    config.write_text(bad + module("softhsm", token.provider, env=dict(token.env)))
    with private_broker(config, "off") as broker:
        yield shim_path(), dict(broker.env), ":"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="p11host-programs-") as name:
        directory = Path(name)
        includes, soft = directory / "includes", directory / "soft"
        includes.mkdir()
        soft.mkdir()
        for generate in (TESTS.parent / "specs" / "generate.py", TESTS / "mirror_c.py"):
            subprocess.run([sys.executable, str(generate), str(includes)], check=True)
        hostile = Workshop(directory, includes).provider("hostile")
        token = make_token(soft, "mine")
        add_token(token, "archive")
        furnish(directory, token)
        print("| SoftHSM, by | " + " | ".join(COMPANY) + " |")
        print("|---" * (1 + len(COMPANY)) + "|")
        for recipe_name, program in PROGRAMS.items():
            for way, label in ((p11kit, "p11-kit-proxy"), (ours, "p11host")):
                cells = []
                for wish in COMPANY.values():
                    with way(directory, token, hostile, wish) as (library, env, before):
                        cells.append(outcome(recipe_name, library, env, before))
                print(f"| {program}, {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
