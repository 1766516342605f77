"""Small sites written with wfdb and nibabel, not with our own readers' code."""

import csv
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

with warnings.catch_warnings():  # wfdb 4.3 trips over a deprecation of pandas 3 on import
    warnings.simplefilter("ignore", DeprecationWarning)
    import wfdb as wfdb_library

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def pytest_collection_modifyitems(items):
    """Let wfdb's writer, which these tests need, use what pandas 3 deprecates."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:The inplace keyword"))


@pytest.fixture(scope="session")
def wfdb():
    return wfdb_library


def _beats(seconds, rate, seed=0):
    """float64 [n, 12] mV that obeys Einthoven and Goldberger, with QRS, T and some noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = (t * 1.1) % 1.0
    qrs = np.exp(-0.5 * ((phase - 0.3) / 0.012) ** 2)
    wave = 0.3 * np.exp(-0.5 * ((phase - 0.6) / 0.05) ** 2)
    one, two = 0.7 * qrs + wave, 1.1 * qrs + 1.2 * wave + 0.05 * np.sin(2 * np.pi * 0.2 * t)
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = [(k - 2) * 0.4 * qrs + 0.2 * k * wave for k in range(6)]
    return np.stack(limbs + chest, axis=1) + rng.normal(0, 0.002, (len(t), 1))


@pytest.fixture(scope="session")
def beats():
    return _beats


@pytest.fixture(scope="session")
def write_ecg():
    def write(
        folder, name, *, values=None, rate=500, names=LEADS, units=None, fmt="16", gain=1000.0
    ):
        folder.mkdir(parents=True, exist_ok=True)
        values = _beats(10, rate) if values is None else values
        count = values.shape[1]
        wfdb_library.wrsamp(
            name,
            fs=rate,
            units=units or ["mV"] * count,
            sig_name=list(names),
            p_signal=values,
            fmt=[fmt] * count,
            adc_gain=[gain] * count,
            baseline=[0] * count,
            write_dir=str(folder),
        )
        return folder / f"{name}.hea"

    return write


def _ring(phases, shape, pixel, centre):
    """float64 [phases, h, w]: a bright disc of beating radius at `centre` (row, column) in mm."""
    rows, columns = (np.arange(n) * p for n, p in zip(shape, pixel, strict=True))
    distance = np.hypot(rows[:, None] - centre[0], columns[None] - centre[1])
    radius = 26 + 7 * np.cos(2 * np.pi * np.arange(phases) / phases)
    return 200 + 600 / (1 + np.exp((distance - radius[:, None, None]) / 1.5))


@pytest.fixture(scope="session")
def ring():
    return _ring


@pytest.fixture(scope="session")
def write_cine():
    def write(path, *, phases=10, shape=(90, 80), pixel=(2.0, 2.0), centre=(95.0, 70.0), **how):
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = how.get("frames", _ring(phases, shape, pixel, centre)).astype(np.int16)
        affine = np.diag([pixel[1], pixel[0], 8.0, 1.0])
        image = nib.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], affine)
        image.header.set_xyzt_units("mm", how.get("time_unit", "sec"))
        image.header["pixdim"][4] = how.get("step", 0.9 / phases)
        nib.save(image, path)
        return path

    return write


@pytest.fixture(scope="session")
def write_manifest():
    def write(path, rows):
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def paired_site(tmp_path, site_template):
    """A site of 12 patients: two with two studies, one ECG-only, one CMR-only, one broken file."""
    return Path(shutil.copytree(site_template, tmp_path / "site"))


@pytest.fixture(scope="session")
def site_template(tmp_path_factory, write_ecg, write_cine, write_manifest):
    root = tmp_path_factory.mktemp("template")
    rows = []
    for k in range(14):
        patient = k % 12
        name = f"s{k:02d}"
        row = {
            "patient_id": f"p{patient}",
            "study_id": k,
            "age": 50 + k,
            "sex": k % 2,
            "lv_edv": 140 + 5 * k if k != 3 else "",
            "lv_mass": 90 + 2 * k,
            "hypertrophy": int(k % 3 == 0) if k != 5 else "",
        }
        if k != 1:
            values = _beats(7 if k == 6 else 10, 250, seed=k)
            write_ecg(root / "ecg", name, values=values, rate=250)
            row["ecg"] = f"ecg/{name}.hea"
        if k != 2:
            write_cine(root / "cmr" / f"{name}_4ch.nii.gz", centre=(80.0 + k, 70.0))
            row["cine_4ch"] = f"cmr/{name}_4ch.nii.gz"
            if k != 4:
                write_cine(root / "cmr" / f"{name}_sax.nii.gz", centre=(90.0, 60.0 + k))
                row["cine_sax"] = f"cmr/{name}_sax.nii.gz"
        rows.append(row)
    data = root / "ecg" / "s07.dat"
    data.write_bytes(data.read_bytes()[:1000])
    write_manifest(root / "manifest.csv", rows)
    return root
