"""engine=ray: hundreds of virtual sites on Flower's simulation runtime.

A SuperLink of our own in simulation mode takes the place of the SuperNodes: it starts one process
that runs the ServerApp and, through Ray, the ClientApp of every virtual site. A site is known by
Flower's partition id; simulations/ray_client.py turns it into the site's file.

    pip install cardionets[ray]
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from cardionets_core.errors import EngineError
from server import launch as server_launch
from simulations.processes import Federation
from simulations.ray_client import VIRTUAL_SITES_ENV
from simulations.run_state import RunState

RAY_VERSION = "2.55.1"
CLIENT_APP = "simulations.ray_client:app"


class RayFederation(Federation):
    """A federation of virtual sites; used like Federation.

    Args:
        folder: the run folder.
        sites: site name -> its YAML file; sorted by name they get the partition ids 0, 1, ...
        bundle: bundle whose server app and run config are used.
        cpus_per_site: CPUs that Ray counts for one site at work; so many sites at a time work as
            this number goes into all cores.
        port: port of the SuperLink; 0 picks a free one.
        env: further environment variables.
        start_s: seconds until the SuperLink must be healthy.
    """

    server_program = "flwr-simulation"

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, Path],
        *,
        bundle: Path = server_launch.BUNDLE,
        cpus_per_site: int = 1,
        port: int = 0,
        env: Mapping[str, str] | None = None,
        start_s: float = 300.0,
    ) -> None:
        check_ray()
        virtual = folder.resolve() / "engine" / "virtual-sites"
        settings = {**(env or {}), VIRTUAL_SITES_ENV: str(virtual)}
        super().__init__(
            folder, sites, port=port, env=settings, bundle=bundle, start_s=start_s, warm=False
        )
        self._virtual = virtual
        self.federation_config = {
            "num-supernodes": len(sites),
            "client-resources-num-cpus": cpus_per_site,
            "init-args-num-cpus": os.cpu_count() or 1,
        }

    def _start_sites(self) -> None:
        self._bundle = write_virtual_bundle(self._bundle, self.engine / "bundle")
        shutil.rmtree(self._virtual, ignore_errors=True)
        self._virtual.mkdir(parents=True)
        for name, path in self.sites.items():
            shutil.copyfile(path, self._virtual / f"{name}.yaml")

    def _await_sites(self, deadline: float) -> None:
        """Virtual sites are there as soon as the run is."""


def run_with_ray(
    folder: Path,
    sites: Mapping[str, Path],
    *,
    run_config: server_launch.RunConfig,
    on_tick: Callable[[], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> RunState:
    """Run the bundle on virtual sites and return the state of the finished run.

    Args:
        folder: the run folder.
        sites: site name -> its YAML file.
        run_config: values for keys that the bundle declares.
        on_tick: called about twice a second.
        env: further environment variables (threads, ...).

    Raises:
        EngineError: Ray is missing, or a process did not do its part.
    """
    with RayFederation(folder, sites, env=env) as federation:
        return federation.wait(federation.submit(run_config), on_tick)


def check_ray() -> None:
    """Raise EngineError unless Ray is installed."""
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            f"engine=ray needs Ray {RAY_VERSION}, which is not installed: pip install "
            "'cardionets[ray]', or use engine=processes or engine=inprocess"
        )


def write_virtual_bundle(bundle: Path, folder: Path) -> Path:
    """Copy a bundle, its client app replaced by the one that knows virtual sites."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (bundle / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    replaced = [
        f'clientapp = "{CLIENT_APP}"' if line.startswith("clientapp") else line for line in lines
    ]
    (folder / "pyproject.toml").write_text("\n".join(replaced) + "\n", encoding="utf-8")
    return folder
