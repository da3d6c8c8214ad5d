"""``managerd pki``: the fleet's certificate authority from the command line."""

import json
from pathlib import Path

import click

from managerd import pki as authority

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.group("pki")
def pki() -> None:
    """Make certificates for nodes, managers and operators, and revoke them.

    \b
    Examples:
      managerd pki init /etc/jlogd/pki
      managerd pki issue manager m1 --pki /etc/jlogd/pki --san logs.example.com --san 10.0.0.5
      managerd pki issue node web1 --pki /etc/jlogd/pki --out ./for-web1
      managerd pki revoke web1 --pki /etc/jlogd/pki
    """


@pki.command("init")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def init(directory: Path, as_json: bool) -> None:
    """Make a certificate authority in DIR: ca.crt for everybody, ca.key for nobody else.

    \b
    Example:
      managerd pki init /etc/jlogd/pki
    """
    certificate = authority.init(directory)
    if as_json:
        click.echo(json.dumps({"schema": 1, "certificate": str(certificate), "key": str(directory / "ca.key")}))
    else:
        click.echo(
            f"{certificate}: give it to every node and manager ([tls] ca); keep {directory / 'ca.key'} to yourself"
        )


@pki.command("issue")
@click.argument("role", type=click.Choice(["node", "manager", "operator"]))
@click.argument("name")
@click.option("--pki", "pki_dir", metavar="DIR", type=_DIRECTORY, required=True, help="The authority's directory.")
@click.option("--san", metavar="HOST_OR_IP", multiple=True, help="One more address of a manager; may be repeated.")
@click.option("--out", metavar="DIR", type=_DIRECTORY, help="Where NAME.crt and NAME.key go; default --pki.")
@click.option("--days", type=click.IntRange(1, authority.CA_DAYS), default=authority.LEAF_DAYS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def issue(
    *, role: authority.Role, name: str, pki_dir: Path, san: tuple[str, ...], out: Path | None, days: int, as_json: bool
) -> None:
    """Write NAME.crt and NAME.key (mode 0600) for a node, manager or operator. Never overwrites.

    A manager's certificate holds for NAME, localhost, 127.0.0.1, manager.jlogd and each --san.

    \b
    Examples:
      managerd pki issue node web1 --pki /etc/jlogd/pki
      managerd pki issue manager m1 --pki /etc/jlogd/pki --san m1.example.com --san 10.0.0.5 --out /etc/jlogd
    """
    issued = authority.issue(role, name, pki_dir, san=san, out=out, days=days)
    if as_json:
        document = {
            "schema": 1,
            "certificate": str(issued.certificate),
            "key": str(issued.key),
            "fingerprint": issued.fingerprint,
            "not_after": f"{issued.not_after:%Y-%m-%dT%H:%M:%SZ}",
        }
        click.echo(json.dumps(document))
    else:
        click.echo(f"{issued.certificate} and {issued.key}: good until {issued.not_after:%Y-%m-%d}")


@pki.command("revoke")
@click.argument("name")
@click.option("--pki", "pki_dir", metavar="DIR", type=_DIRECTORY, required=True, help="The authority's directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def revoke(name: str, pki_dir: Path, as_json: bool) -> None:
    """Add every certificate that NAME got to DIR/deny. Copy that file to the managers ([tls] deny).

    \b
    Example:
      managerd pki revoke web1 --pki /etc/jlogd/pki
    """
    fresh = authority.revoke(name, pki_dir)
    if as_json:
        click.echo(json.dumps({"schema": 1, "deny": str(pki_dir / "deny"), "fingerprints": fresh}))
    elif fresh:
        click.echo(f"{pki_dir / 'deny'}: {len(fresh)} certificate(s) of {name} added; copy it to the managers")
    else:
        click.echo(f"{pki_dir / 'deny'} had every certificate of {name} already")
