"""SiteConfig: all that a hospital decides about itself. It never leaves the site."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cardionets_core.config_tree import build
from cardionets_core.errors import ConfigError, nearest
from cardionets_core.privacy_config import SitePrivacy
from cardionets_core.vocabulary import StageName
from cardionets_core.wire_limits import LONGEST_NAME, is_site_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNREADABLE = (OSError, UnicodeDecodeError, RecursionError)
"""What the YAML reader lets through: a lone scalar, bytes that are no text, endless aliases."""

SITE_CONFIG_ENV = "SITE_CONFIG"
"""The environment variable that names the site's YAML to its own processes."""

PREPARED_MANIFEST, PREPARED_SALT = "manifest.parquet", "site_salt"
"""Files of the folder that `cardionets prepare` makes."""


@dataclass(frozen=True)
class SiteData:
    """Where this hospital's records lie: a prepared folder, or root, manifest and cache.

    Attributes:
        root: folder that every path of the manifest is relative to, and must stay inside of.
        manifest: the cohort table (CSV or Parquet).
        cache: folder for prepared arrays; it holds patient data, so it stays at the site.
        salt: secret that the train/validation/test split is drawn with.
        prepared: the folder that `cardionets prepare --out` made; the four above come from it.
    """

    root: str = ""
    manifest: str = ""
    cache: str = ""
    salt: str = field(default="", repr=False)
    prepared: str = ""

    def __post_init__(self) -> None:
        """Refuse half of an answer, and two answers."""
        if not self.prepared:
            missing = [key for key in ("root", "manifest", "cache") if not getattr(self, key)]
            if missing:
                raise ValueError(
                    f"missing key {missing[0]!r}; name root, manifest and cache, or the folder "
                    "that `cardionets prepare` made as `prepared`"
                )


@dataclass(frozen=True)
class SitePolicy:
    """What this hospital allows.

    Attributes:
        stages: stages that it takes part in; empty means all. `masked` is also let in where each
            member of it stands here that this site would train.
        min_patients: it answers no task over fewer training patients than this.
        max_local_epochs: more than this in one task is refused.
    """

    stages: tuple[str, ...] = ()
    min_patients: int = 5
    max_local_epochs: int = 200

    def __post_init__(self) -> None:
        """Refuse a stage that does not exist: it would silently keep the hospital out."""
        known = get_args(StageName)
        for name in self.stages:
            if name not in known:
                raise ValueError(f"policy.stages: {name!r} is no stage{nearest(name, known)}")


@dataclass(frozen=True)
class SiteConfig:
    """One hospital.

    Attributes:
        site: the name that the coordinator and the reports know it by.
        title: a name for people.
        device: `auto` takes CUDA where there is one, else the CPU.
        compile: use torch.compile for training steps.
        workers: processes that prepare records.
    """

    site: str
    data: SiteData
    title: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    workers: int = 1
    policy: SitePolicy = field(default_factory=SitePolicy)
    privacy: SitePrivacy = field(default_factory=SitePrivacy)

    def __post_init__(self) -> None:
        """Refuse names that would not survive in a file name or a report."""
        if not is_site_name(self.site):
            raise ValueError(
                f"site {self.site!r} must be letters, digits, '-' or '_', at most {LONGEST_NAME}"
            )


def load_site_config(path: Path, overrides: Sequence[str] = ()) -> SiteConfig:
    """Compose a site's YAML with Hydra and check that what it names is there.

    Args:
        path: the YAML; `${oc.env:NAME}` in it reads an environment variable of the site.
        overrides: Hydra overrides, `key=value`.

    Raises:
        ConfigError: the file, a key or a folder is wrong; names the key and the next step.
    """
    values = compose_site(path, overrides)
    _check_whole_paths(values, where=path.name)
    config = site_config_from(values, where=path.name)
    for key, value in (("data.root", config.data.root), ("data.manifest", config.data.manifest)):
        if not Path(value).exists():
            raise ConfigError(
                f"{path.name}: {key} names {value}, which does not exist. "
                "Correct the path, prepare the hospital's files (`cardionets prepare`), or make a "
                "virtual hospital (`cardionets cohort`)."
            )
    return config


def _check_whole_paths(values: dict[str, Any], where: str) -> None:
    """Refuse paths that mean another folder when a service starts somewhere else."""
    data = values.get("data")
    for key in ("prepared", "root", "manifest", "cache"):
        stated = data.get(key) if isinstance(data, dict) else None
        if isinstance(stated, str) and stated and not Path(stated).is_absolute():
            raise ConfigError(
                f"{where}: data.{key} names {stated}, which is another place for a service that "
                f"starts elsewhere; write the whole path, for example {Path(stated).resolve()}."
            )


def site_config_from(values: dict[str, Any], where: str = "site") -> SiteConfig:
    """Build a SiteConfig from a plain mapping, refusing unknown keys.

    Raises:
        ConfigError: a key is wrong, or `data.prepared` names no prepared folder.
    """
    config = build(SiteConfig, values, where)
    if not config.data.prepared:
        return config
    return replace(config, data=_from_prepared(config.data, where))


def _from_prepared(data: SiteData, where: str) -> SiteData:
    """Return where the parts of a prepared folder lie, and its salt."""
    out = Path(data.prepared)
    place = f"{where}: data.prepared names {out}"
    own = [key for key in ("root", "manifest", "salt") if getattr(data, key)]
    if own:
        raise ConfigError(
            f"{place}, which has its own {own[0]}; remove data.{own[0]}, or data.prepared."
        )
    manifest, salt = out / PREPARED_MANIFEST, out / PREPARED_SALT
    if not (manifest.is_file() and salt.exists()):
        raise ConfigError(
            f"{place}, which is no prepared folder ({PREPARED_MANIFEST} or {PREPARED_SALT} is not "
            "there). Correct the path, or run `cardionets prepare` to its end."
        )
    try:
        secret = salt.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{place}, whose {PREPARED_SALT} cannot be read; start as the account that prepared it."
        ) from None
    cache = data.cache or str(out / "cache")
    return replace(data, root=str(out), manifest=str(manifest), cache=cache, salt=secret)


def load_own_site_config() -> SiteConfig:
    """Load the YAML that the environment of this process names (SITE_CONFIG)."""
    path = os.environ.get(SITE_CONFIG_ENV)
    if not path:
        raise ConfigError(
            f"{SITE_CONFIG_ENV} is not set: start with `cardionets-site start --config FILE`."
        )
    return load_site_config(Path(path))


def compose_site(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose one YAML file with Hydra and return plain values; nothing in it can name code.

    Raises:
        ConfigError: there is no such file, or it is not YAML with keys.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise ConfigError(f"{path} does not exist; copy site_configs/template.yaml and fill it in.")
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path} is not a .yaml file; name the site's YAML.")
    forced = [o if o[:1] in "+~" else f"++{o}" for o in overrides]
    try:
        config = OmegaConf.load(path)
        # A site reads its file for every task, and Hydra takes a tenth of a second.
        if forced or "defaults" in config:
            with initialize_config_dir(str(path.parent.resolve()), version_base="1.3"):
                config = compose(path.name, overrides=forced)
        values = OmegaConf.to_container(config, resolve=True)
    except (YAMLError, OmegaConfBaseException, HydraException, *_UNREADABLE) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path.name} cannot be used: {line}") from None
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path.name} holds no keys; copy site_configs/template.yaml.")
    return {str(k): v for k, v in values.items()}


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML."""
    from omegaconf import OmegaConf

    path.write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
