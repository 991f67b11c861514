"""Secrets are recognised by the names of variables and files and by their shape, and ordinary values are not."""
from __future__ import annotations

import pytest

from src.io import secrets

TOKENS = ("ghp_" + "a1" * 18, "github_pat_" + "a1" * 20, "glpat-" + "a1" * 10, "hf_" + "a1" * 17, "sk-" + "a1" * 20,
          "sk-proj-" + "a_1" * 10, "xoxb-" + "1234-abcd-5678", "npm_" + "a1" * 18, "AKIA" + "A1" * 8,
          "AIza" + "a1b-2" * 7, "ya29." + "a1" * 12, "eyJ" + "a1" * 8 + ".eyJ" + "b2" * 8 + "." + "c3" * 10)


@pytest.mark.parametrize("name", [
    "WANDB_API_KEY", "HF_TOKEN", "COMET_APIKEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "SSHPASS", "GITHUB_PAT",
    "MYSQL_PWD", "SENTRY_DSN", "NPM_AUTH", "npm_config__auth", "REGISTRY-PASS", "MY_PASSPHRASE", "GRIDIRON_NOTIFY",
    "ARTIFACTORY_CREDENTIALS", "SESSION_COOKIE", "deployKey_KEY", "PRIVATE_KEY"])
def test_names_of_secrets(name: str) -> None:
    assert secrets.is_secret_name(name)


@pytest.mark.parametrize("name", ["HOME", "PWD", "OLDPWD", "PATH", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATIENCE",
                                  "COMPASS", "XAUTHORITY", "MONKEY", "http_proxy", "DATABASE_URL"])
def test_other_names(name: str) -> None:
    assert not secrets.is_secret_name(name)


def test_values_with_the_shape_of_a_secret_have_any_name() -> None:
    environment = {"http_proxy": "http://me:p@ss/word@proxy:3128", "DATABASE_URL": "postgres://u:pw@host/db",
                   "X": TOKENS[0], "https_proxy": "http://proxy:3128", "LC_ALL": "C.UTF-8", "PWD": "/root/long/folder",
                   "SHORT_KEY": "abc", "GOOGLE_APPLICATION_CREDENTIALS": __file__, "ENDPOINT": "https://host/?x=1",
                   "FEED": "https://host/?private_token=abc"}
    assert set(secrets.secret_values(environment).values()) == {"http_proxy", "DATABASE_URL", "X", "FEED"}


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_redacted(token: str) -> None:
    assert secrets.redact(f"a = '{token}'  # x".encode(), ()) == b"a = '***'  # x"


@pytest.mark.parametrize(("text", "redacted"), [
    ("git clone https://me:p@ss/w0rd?x@host.org/a.git now", "git clone https://***@host.org/a.git now"),
    ("curl 'https://host/x?a=1&private_token=abc&b=2'", "curl 'https://host/x?a=1&private_token=***&b=2'"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEabcdefghijklmnopqrstuvwxyz\n-----END RSA PRIVATE KEY-----",
     "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"),
    ("connect('postgres://{user}:{password}@{host}')", "connect('postgres://{user}:{password}@{host}')"),
    ("https://host:8080/path and me@host", "https://host:8080/path and me@host"),
    ("sk-learn-like-names-are-no-keys", "sk-learn-like-names-are-no-keys"),
    ("pad_token: <|endoftext|>", "pad_token: <|endoftext|>"), ("?key_of_a_map=1", "?key_of_a_map=1")])
def test_addresses_and_keys_are_redacted(text: str, redacted: str) -> None:
    assert secrets.redact(text.encode(), ()).decode() == redacted


@pytest.mark.parametrize(("url", "public"), [
    ("https://me:pass@host/x.git", "https://host/x.git"), ("https://me:p@ss/word@host/x.git", "https://host/x.git"),
    ("https://host/x.git?private_token=abc#f", "https://host/x.git"), ("git@host:me/x.git", "git@host:me/x.git"),
    ("https://u:p?w@host/x", "https://***"), ("https://host/x?t=a@b", "https://***"), ("ssh://git@host:22/x", "ssh://host:22/x"),
    ("me:pass@host:x.git", "host:x.git"), ("../other.git", "../other.git"), ("file:///srv/x.git", "file:///srv/x.git")])
def test_public_url(url: str, public: str) -> None:
    assert secrets.public_url(url) == public
    assert "pass" not in secrets.public_url(url)


@pytest.mark.parametrize(("name", "is_secret"), [
    *[(name, True) for name in (
        "hf_token.txt", "service-account.json", "my-service_account-1.json", "rclone.cfg", "conf/rclone.conf",
        "id_ed25519", "server.pem", ".env", "a/.env.local", ".npmrc", ".netrc", "my_credentials.json",
        "kubeconfig.yaml", "secrets.toml", "passwords.txt", "api_key.txt")],
    *[(name, False) for name in (
        "tokenizer.json", "train.py", "keyboard.cfg", "environment.yml", "monkey.txt", "a.keys.py")]])
def test_names_of_files(name: str, is_secret: bool) -> None:
    assert secrets.is_secret_file(name) == is_secret


@pytest.mark.parametrize("text", ["?" + "token" * 200_000, "://" * 300_000, "a" * 10**6 + "://", "eyJ" * 300_000,
                                  "-----BEGIN PRIVATE KEY-----" * 30_000, "http://" + "a:" * 500_000])
def test_redaction_of_long_texts_is_quick(text: str) -> None:
    import time

    start = time.process_time()
    secrets.redact(text.encode(), ())
    assert time.process_time() - start < 5, "the time grows with the square of the length"
