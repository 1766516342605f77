"""`cardionets-site`: what a hospital's administrator types."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cardionets_core.cli import told_plainly
from cardionets_core.errors import ConfigError
from cardionets_core.site_config import load_site_config

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="One hospital of a federation.",
)
console = Console()

Config = Annotated[
    Path, typer.Option(help="The site's YAML; start from site_configs/template.yaml.")
]

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Hydra overrides, e.g. device=cpu", show_default=False)
]


@app.command()
def check(
    config: Config,
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="The model that records are prepared for.")] = "tiny",
) -> None:
    """Read the site's files, prepare its records and say which stages it can serve."""
    from cardionets_core.run_config import model_preset
    from cardionets_core.training.stages import STAGES
    from cardionets_core.vocabulary import DISEASES, PHENOTYPE_NAMES
    from client.local_training import persons
    from client.site import open_dataset

    with told_plainly():
        site = load_site_config(config, overrides or [])
        dataset = open_dataset(
            site,
            model_preset(preset),
            phenotypes=PHENOTYPE_NAMES,
            diseases=tuple(DISEASES),
            scaler=None,
        )
        counts = Table("what", "how many", title=f"{site.site}: {site.title}")
        for name, value in dataset.counts().items():
            counts.add_row(name, str(value))
        stages = Table("stage", "training patients", "this site")
        for stage in STAGES.values():
            able = stage.modality in dataset.modalities
            allowed = not site.policy.stages or stage.name in site.policy.stages
            patients = persons(dataset, dataset.indices("train", stage.needs)) if able else 0
            enough = patients >= site.policy.min_patients
            verdict = "takes part" if able and allowed and enough else _why_not(able, allowed)
            stages.add_row(stage.name, str(patients), verdict)
        console.print(counts, stages)


def _why_not(able: bool, allowed: bool) -> str:
    if not able:
        return "has no such data"
    return "too few patients" if allowed else "its policy says no"


@app.command()
def start(
    config: Config,
    superlink: Annotated[str, typer.Option(help="host:port of the coordinator.")],
    home: Annotated[Path, typer.Option(help="Folder for Flower's own files.")] = Path(
        ".cardionets-site"
    ),
    port: Annotated[int, typer.Option(help="Loopback port of this node's own API.")] = 9094,
    root_certificates: Annotated[
        Path | None, typer.Option(help="Authority of the coordinator's certificate (PEM).")
    ] = None,
    node_key: Annotated[Path | None, typer.Option(help="This site's private key (PEM).")] = None,
    print_command: Annotated[bool, typer.Option("--print-command", help="Only print it.")] = False,
) -> None:
    """Start this hospital's SuperNode; it connects outwards and waits for tasks. Ctrl-C ends it."""
    from client.launch import supernode

    with told_plainly():
        load_site_config(config)
        _check_connection(superlink, root_certificates, node_key)
        home.mkdir(parents=True, exist_ok=True)
        command = supernode(
            config.resolve(),
            superlink=superlink,
            port=port,
            home=home.resolve(),
            root_certificates=root_certificates,
            node_key=node_key,
        )
    if print_command:
        typer.echo(command.shell())
        return
    environment = command.environment(os.environ)
    # Replaces this process, so that a service manager sees and stops the node itself.
    os.execvpe(command.argv[0], command.argv, environment)


def _check_connection(superlink: str, root_certificates: Path | None, key: Path | None) -> None:
    """Refuse an address that is none, files that are absent, and plain HTTP to another machine.

    Raises:
        ConfigError: names the option and the next step.
    """
    host, colon, port = superlink.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ConfigError(f"--superlink {superlink}: write it as host:port.")
    for option, path in (("--root-certificates", root_certificates), ("--node-key", key)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{option} {path} does not exist; correct the path.")
    if root_certificates is None and host not in ("127.0.0.1", "localhost", "[::1]"):
        raise ConfigError(
            f"--superlink {superlink} is another machine, so the connection must be encrypted; "
            "add --root-certificates with the coordinator's authority."
        )
