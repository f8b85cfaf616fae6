"""`[[xmpp.accounts]]`: both ways to give a secret, what each mistake is told, and that no secret is in any of it."""

from __future__ import annotations

import io
import ssl
import tomllib
from pathlib import Path

import pytest

from routeserver.cli.program import main
from routeserver.config.file import Config, ConfigError, load
from routeserver.xmpp.accounts import AccountSettings
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.scram import ITERATIONS, ScramKeys
from tests.support.pki import Pki

HEAD = """
[route-server]
router-id = "192.0.2.101"
as = 64512

[xmpp]
domain = "rs.example.net"
listen = ["127.0.0.1:5222"]
certificate = "rs.pem"
private-key = "rs.key"
client-ca = "ca.pem"
"""
KEYS = ScramKeys.derive("pencil", b"0123456789abcdef", 4096)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Pki.create(tmp_path_factory.mktemp("pki")).directory
    (made / "one").write_text("pencil\nand a note\n")
    (made / "crlf").write_bytes(b"pencil\r\n")
    (made / "bare").write_text("\u2168 pencils")
    (made / "empty").write_text("\nsecond line\n")
    (made / "latin1").write_bytes(b"p\xe4ncil\n")
    (made / "bell").write_text("secret\a\n")
    return made


def account(jid: str, *lines: str) -> str:
    return "\n".join(["[[xmpp.accounts]]", f'jid = "{jid}"', *lines]) + "\n"


def load_text(directory: Path, *accounts: str) -> Config:
    file = directory / "rs.toml"
    file.write_text(HEAD + "".join(accounts))
    return load(file)


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ('password-file = "one"', "pencil"),
        ('password-file = "crlf"', "pencil"),
        ('password-file = "bare"', "IX pencils"),
        (f'scram-sha-256 = "{KEYS}"', KEYS),
    ],
)
def test_an_account(directory: Path, line: str, secret: str | ScramKeys) -> None:
    config = load_text(directory, account("Host1.example.net", line))
    assert config.xmpp is not None
    assert config.xmpp.accounts == (AccountSettings(Jid.parse("host1.example.net"), secret),)
    assert config.xmpp.tls.context.verify_mode is ssl.CERT_OPTIONAL
    assert "pencil" not in repr(config)


def test_without_accounts_a_certificate_is_needed(directory: Path) -> None:
    for text in ("", "accounts = []\n"):
        config = load_text(directory, text)
        assert config.xmpp is not None
        assert config.xmpp.accounts == ()
        assert config.xmpp.tls.context.verify_mode is ssl.CERT_REQUIRED


def test_a_reload_can_follow_accounts(directory: Path) -> None:
    one = load_text(directory, account("host1.example.net", 'password-file = "one"'))
    assert one.fixed == load_text(directory).fixed


ONE = 'password-file = "one"'
MISTAKES = [
    ([account("host1.example.net")], "xmpp.accounts[0]: needs one of password-file and scram-sha-256"),
    (
        [account("host1.example.net", ONE, f'scram-sha-256 = "{KEYS}"')],
        "xmpp.accounts[0]: needs one of password-file and scram-sha-256",
    ),
    (["[[xmpp.accounts]]\n" + ONE], "xmpp.accounts[0].jid: required, but missing"),
    ([account("host1.example.net", 'password = "pencil"')], "xmpp.accounts[0].password: unknown key"),
    (
        [account("a", ONE), account("a/vpn", ONE)],
        "xmpp.accounts[1].jid: 'a/vpn' has a resource, which a service or a forwarder does not",
    ),
    ([account("@", ONE)], "xmpp.accounts[0].jid: '@' is not a JID"),
    ([account("a", ONE), account("A", ONE)], "xmpp.accounts[1].jid: the same as xmpp.accounts[0].jid"),
    (
        [account("a", ONE), account("b", ONE), account("a@rs.example.net", ONE)],
        "xmpp.accounts[2].jid: the same as xmpp.accounts[0].jid",
    ),
    (
        [account("a", 'password-file = "none"')],
        "xmpp.accounts[0].password-file: {dir}/none: No such file or directory",
    ),
    ([account("a", 'password-file = "empty"')], "xmpp.accounts[0].password-file: {dir}/empty: it is empty"),
    ([account("a", 'password-file = "latin1"')], "xmpp.accounts[0].password-file: {dir}/latin1 is not UTF-8"),
    (
        [account("a", 'password-file = "bell"')],
        "xmpp.accounts[0].password-file: {dir}/bell: it has a character that no password may have (RFC 4013 "
        "section 2.3)",
    ),
    (
        [account("a", 'scram-sha-256 = "pencil"')],
        "xmpp.accounts[0].scram-sha-256: is not ITERATIONS:SALT:STOREDKEY:SERVERKEY with the last three in base64",
    ),
    (
        [account("a", f'scram-sha-256 = "{str(KEYS).replace("4096:", "4095:")}"')],
        "xmpp.accounts[0].scram-sha-256: the iterations are not from 4096 to 10000000",
    ),
]


@pytest.mark.parametrize(("accounts", "line"), MISTAKES, ids=[line.partition(":")[0] for _, line in MISTAKES])
def test_a_mistake_is_one_line_without_a_secret(directory: Path, accounts: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_text(directory, *accounts)
    assert str(error.value) == f"{directory}/rs.toml: {line.replace('{dir}', str(directory))}"


# --- The command that makes one -------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, typed: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    return main(["account", *words])


def test_the_command_prints_a_table_to_paste(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for words in (("Host1.example.net",), ("host1.example.net", "--iterations", "4096")):
        assert run(monkeypatch, "pencil\r\nnot this\n", *words) == 0
        printed = capsys.readouterr().out
        assert "pencil" not in printed
        config = load_text(directory, printed)
        assert config.xmpp is not None
        (made,) = config.xmpp.accounts
        assert isinstance(made.secret, ScramKeys)
        assert made.secret == ScramKeys.derive("pencil", made.secret.salt, made.secret.iterations)
        found.append((str(made.jid), made.secret.iterations, made.secret.salt))
    assert [(jid, count) for jid, count, _ in found] == [("host1.example.net", ITERATIONS), ("host1.example.net", 4096)]
    assert found[0][2] != found[1][2]
    assert len(found[0][2]) == 16


def test_a_jid_with_a_backslash_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pencil\n", "a\\b\u00e9@example.net", "--iterations", "4096") == 0
    (table,) = tomllib.loads(capsys.readouterr().out)["xmpp"]["accounts"]
    assert table["jid"] == "a\\b\u00e9@example.net"


@pytest.mark.parametrize(
    ("typed", "words", "complaint"),
    [
        ("\n", ["a"], "the password: it is empty"),
        ("", ["a"], "the password: it is empty"),
        ("\a\n", ["a"], "the password: it has a character that no password may have (RFC 4013 section 2.3)"),
        ("pencil\n", ["a/b"], "JID: 'a/b' has a resource, which a service or a forwarder does not"),
        ("pencil\n", ["@"], "JID: '@' is not a JID"),
        ("pencil\n", ["a", "--iterations", "4095"], "--iterations: 4095 is not from 4096 to 10000000"),
    ],
)
def test_what_the_command_refuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    words: list[str],
    complaint: str,
) -> None:
    assert run(monkeypatch, typed, *words) == 2
    assert capsys.readouterr() == ("", f"routeserver: {complaint}\n")


class Terminal(io.StringIO):
    """Where a person types."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("again", "code"), [("pencil", 0), ("Pencil", 2)])
def test_a_person_types_it_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], again: str, code: int
) -> None:
    typed = iter(("pencil", again))
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt="Password: ": next(typed))
    assert main(["account", "a", "--iterations", "4096"]) == code
    out, complaint = capsys.readouterr()
    assert bool(out) == (code == 0)
    assert complaint == ("" if code == 0 else "routeserver: the two passwords differ\n")


@pytest.mark.parametrize("answers", [[EOFError()], [KeyboardInterrupt()], ["pencil", EOFError()]])
def test_a_person_changes_their_mind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answers: list[str | BaseException]
) -> None:
    waiting = iter(answers)

    def typed(prompt: str = "Password: ") -> str:
        answer = next(waiting)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", typed)
    assert main(["account", "a"]) == 2
    assert capsys.readouterr() == ("", "\nrouteserver: no password was given\n")
