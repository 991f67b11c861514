"""Install lock files with uv, configured from pip's own configuration, or with pip where uv is unavailable or fails.

    python tools/packages.py install requirements.lock .venv
    python tools/packages.py uv pip compile pyproject.toml

uv reads neither pip.conf nor PIP_* variables. This program translates them, so that uv uses the same indexes, mirrors,
proxies, certificates and constraints as pip would. `make environment`, `make mlflow` and `make lock` call it; it needs
Python's standard library only.
"""
from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv"  # the environment that uv itself is installed into, at the version pinned in its lock file
LOCK = ROOT / "requirements.lock"
INSTALLED = ".installed"  # in an environment: a copy of the lock file that it was installed from

# pip option: the variables that set it for uv, and what separates several values there (None: a single value).
# Variables rather than arguments, since a URL may hold a password and a process list is readable by everybody.
_VARIABLES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "index-url": (("UV_DEFAULT_INDEX",), None),
    "extra-index-url": (("UV_INDEX",), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "constraint": (("UV_CONSTRAINT",), " "),
    "build-constraint": (("UV_BUILD_CONSTRAINT",), " "),
    "trusted-host": (("UV_INSECURE_HOST",), " "),
    "timeout": (("UV_HTTP_TIMEOUT",), None),
    "retries": (("UV_HTTP_RETRIES",), None),
    "client-cert": (("SSL_CLIENT_CERT",), None),
    "proxy": (("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), None),
}
_ALIASES = {"default-timeout": "timeout", "pypi-url": "index-url"}
# options that change what pip installs, or where to, and that this program does not translate
_PIP_ONLY = {"target", "prefix", "root", "requirement", "editable", "no-deps", "require-hashes", "no-build-isolation",
             "config-settings", "global-option", "ignore-requires-python"}
_STAGES = ("Resolved", "Prepared", "Installed", "Bytecode compiled", "warning:")  # lines of uv that are worth printing


class UvError(Exception):
    """uv is unavailable or failed; the message says why, in one line and without passwords."""


def parse_pip_config(listing: str) -> dict[str, str]:
    """Return the values that `pip install` uses, by option, from the output of `pip config list`.

    Empty values are left out, as pip does. The environment takes precedence over [install], and that over [global].
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        match = re.fullmatch(r"(global|install|:env:)\.([\w-]+)=(.+)", line)
        if match and (value := ast.literal_eval(match[3])):
            sections[match[1]][_ALIASES.get(match[2], match[2])] = value
    return {**sections["global"], **sections["install"], **sections[":env:"]}


def is_on(settings: Mapping[str, str], option: str) -> bool:
    """Return whether a boolean option of pip is set to true."""
    return settings.get(option, "").lower() in ("1", "y", "yes", "t", "true", "on")


def uv_variables(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which uv behaves as pip does with these settings.

    UV_* variables that are already set keep their values.
    """
    variables = {}
    if environment.get("PYTHONDONTWRITEBYTECODE"):
        variables["UV_COMPILE_BYTECODE"] = "1"  # otherwise the first import writes bytecode, and only of what is used
    for option, (names, separator) in _VARIABLES.items():
        if value := settings.get(option):
            values = [os.path.expanduser(part) for part in (value.split() if separator else [value])]
            variables |= dict.fromkeys(names, (separator or "").join(values))
    if "UV_HTTP_TIMEOUT" in variables:
        variables["UV_HTTP_TIMEOUT"] = str(max(1, round(float(variables["UV_HTTP_TIMEOUT"]))))  # pip allows fractions
    if "UV_INDEX" in variables:
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's: a version may come from any of the indexes
    if is_on(settings, "pre"):
        variables["UV_PRERELEASE"] = "allow"
    if settings.get("keyring-provider") == "subprocess":
        variables["UV_KEYRING_PROVIDER"] = "subprocess"
    variables |= _certificates(settings, environment)
    kept = {name for name in environment if name.startswith("UV_")}
    return {**environment, **{name: value for name, value in variables.items() if name not in kept}}


def _certificates(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make uv trust the certificates that pip trusts."""
    bundle = settings.get("cert")
    if not bundle and not environment.get("SSL_CERT_FILE") and not environment.get("SSL_CERT_DIR"):
        bundle = environment.get("REQUESTS_CA_BUNDLE") or environment.get("CURL_CA_BUNDLE")
        if not bundle:
            system = ssl.get_default_verify_paths()
            return {"UV_SYSTEM_CERTS": "1"} if system.cafile or system.capath else {}
    if not bundle:
        return {}
    bundle = os.path.expanduser(bundle)
    return {"SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE": bundle}


def uv_arguments(settings: Mapping[str, str]) -> list[str]:
    """Return uv's arguments for the options of pip that no variable sets. Raises UvError if one has no translation."""
    if untranslated := sorted(option for option in _PIP_ONLY & settings.keys()
                              if settings[option].lower() not in ("0", "n", "no", "f", "false", "off")):
        raise UvError(f"pip is configured with {', '.join(untranslated)}, which is not translated for uv")
    arguments = ["--no-index"] if is_on(settings, "no-index") else []
    for option in ("no-binary", "only-binary"):
        arguments += [f"--{option}={package}" for package in re.split(r"[,\s]+", settings.get(option, "")) if package]
    return arguments


def pip_settings(python: Path) -> dict[str, str]:
    """Return the options that pip.conf files and PIP_* variables set for `pip install`."""
    # a quiet pip would print no configuration
    done = _capture([str(python), "-m", "pip", "config", "list"], {**os.environ, "PIP_QUIET": "0"})
    if done.returncode:
        raise UvError(f"pip's configuration cannot be read ({_last_line(done.stderr)})")
    return parse_pip_config(done.stdout)


def pinned_uv(lock: Path) -> str:
    """Return the version of uv that a lock file pins."""
    match = re.search(r"^uv==([\w.]+)", lock.read_text("utf-8"), re.M)
    if not match:
        raise UvError(f"{lock.name} does not pin uv")
    return match[1]


def provide_uv(home: Path, version: str) -> Path:
    """Return the uv executable of the environment `home`, installing this version of it by pip if necessary."""
    uv = home / "bin" / "uv"
    if uv.exists():
        done = _capture([str(uv), "--version"])
        if done.returncode == 0 and done.stdout.split()[1:2] == [version]:
            return uv
    print(f"Installing uv {version}", flush=True)
    done = _capture([*_pip_install(home), f"uv=={version}"])
    if done.returncode:
        raise UvError(f"uv {version} could not be installed ({_last_line(done.stderr)})")
    return uv


def _capture(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a short command and return its output. Raises UvError if it cannot be started."""
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise UvError(f"{command[0]} cannot be started ({error.strerror})") from None


def _pip_install(environment: Path) -> list[str]:
    return [str(environment / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]


def _last_line(text: str) -> str:
    return without_passwords((text.strip() or "no message").splitlines()[-1].strip())


def without_passwords(text: str) -> str:
    """Mask what stands before the @ in URLs."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


@contextmanager
def cache_for(environment: Path, uv: Path, settings: Mapping[str, str], variables: dict[str, str]) -> Iterator[None]:
    """Choose the cache that uv unpacks packages into, and links them from.

    uv's own cache is used if it is on the environment's file system, where links take no space. On another one it would
    be a second copy of everything, often in a home folder with a quota: then, or if pip is configured to keep no cache,
    uv gets a temporary one inside the environment.
    """
    is_chosen = "UV_CACHE_DIR" in variables or "UV_NO_CACHE" in variables
    default = Path(_capture([str(uv), "cache", "dir"], variables).stdout.strip())
    if not is_on(settings, "no-cache-dir") and (is_chosen or _device(default) == _device(environment)):
        yield
        return
    temporary = environment / ".uv-cache"
    variables["UV_CACHE_DIR"] = str(temporary)
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _device(path: Path) -> int:
    """Return the file system that a path is on, or would be on."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists()).stat().st_dev


def run_uv(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run uv, printing a line for each of its stages. Raises UvError with its message if it fails."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables)
    except OSError as error:
        raise UvError(f"uv cannot be started ({error.strerror})") from None
    messages: list[str] = []
    with process:
        for line in process.stderr or ():
            if line.startswith(_STAGES):
                print(f"  {without_passwords(line.rstrip())}", flush=True)
            elif messages or line.startswith("error:"):
                messages.append(without_passwords(line.strip()))
    if process.returncode:
        raise UvError(f"uv failed with exit code {process.returncode} ({_reason(messages)})")


def _reason(messages: Sequence[str]) -> str:
    """Return uv's error with its first and its last cause in one line: those in between add no information."""
    causes = [text for message in messages if (text := re.sub(r"^(error|cause|Caused by): ", "", message))]
    return ": ".join(dict.fromkeys([*causes[:2], *causes[-1:]])) or "no message"


def install(lock: Path, environment: Path, installer: str, home: Path = HOME, home_lock: Path = LOCK) -> int:
    """Install a lock file into an environment, and return the exit code.

    The environment keeps a copy of the lock file that it was installed from. If that is the same, nothing is done.
    """
    installed = environment / INSTALLED
    if installed.is_file() and installed.read_bytes() == lock.read_bytes():
        return 0
    if environment.is_symlink():
        print(f"note: {environment.name} is a link to {environment.resolve()}: whatever uses that environment gets the "
              f"packages of this {lock.name}; `rm {environment.name}` gives this folder its own", flush=True)
    installed.unlink(missing_ok=True)  # until all packages are those of the lock file
    start = time.monotonic()
    if installer == "uv":
        try:
            settings = pip_settings(home / "bin" / "python")
            variables, arguments = uv_variables(settings, os.environ), uv_arguments(settings)
            uv = provide_uv(home, pinned_uv(home_lock))
            print(f"Installing {lock.name} into {environment.name} with uv", flush=True)
            with cache_for(environment, uv, settings, variables):
                run_uv([str(uv), "pip", "install", "--no-progress", "--python", str(environment / "bin" / "python"),
                        *arguments, "--requirement", str(lock)], variables)
        except UvError as error:
            print(f"{error}: using pip instead, which takes some minutes", flush=True)
            installer = "pip"
    if installer == "pip":
        print(f"Installing {lock.name} into {environment.name} with pip", flush=True)
        if code := subprocess.call([*_pip_install(environment), "--requirement", str(lock)]):
            return code
    shutil.copyfile(lock, installed)
    print(f"{environment.name} is ready after {time.monotonic() - start:.0f} s", flush=True)
    return 0


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="packages.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    installation = commands.add_parser("install", help="install a lock file into an environment")
    installation.add_argument("lock", type=Path)
    installation.add_argument("environment", type=Path)
    installation.add_argument("--installer", choices=["uv", "pip"], default="uv")
    direct = commands.add_parser("uv", help="run the environment's uv with pip's configuration")
    direct.add_argument("words", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    options = parser.parse_args(words)
    if options.command == "install":
        return install(options.lock, options.environment, options.installer)
    try:
        settings = pip_settings(HOME / "bin" / "python")
        uv = provide_uv(HOME, pinned_uv(LOCK))
        command = [str(uv), *options.words, *uv_arguments(settings)]
    except UvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return subprocess.call(command, env=uv_variables(settings, os.environ))


if __name__ == "__main__":
    os.umask(os.umask(0o022) | 0o022)  # nobody else may write to the environment
    sys.exit(main(sys.argv[1:]))
