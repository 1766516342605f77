"""Why a record cannot be used: a code for counts, a cause and a next step for people."""

from __future__ import annotations

from cardionets_core.errors import DataError

REASONS: dict[str, tuple[str, str]] = {
    "missing_file": (
        "a file is not there: the one that the manifest names, or the signals beside a header",
        "copy it to its place, or take out the record that needs it",
    ),
    "path_escape": (
        "a path leads out of the data folder",
        "use paths below the data folder, without '..', links, drives or addresses",
    ),
    "header": (
        "the header does not follow its format",
        "export the record again from its source",
    ),
    "too_large": (
        "the header claims more data than such a recording can hold",
        "check the header; if the recording really is this long, cut it",
    ),
    "truncated": (
        "the data file is shorter than its header says",
        "copy or export the record again",
    ),
    "unreadable": (
        "the data cannot be decoded",
        "export the record again from its source",
    ),
    "file_type": (
        "this is not a file type that is read here",
        "convert it to WFDB (.hea) or NIfTI (.nii, .nii.gz)",
    ),
    "sampling_rate": (
        "the sampling rate is not one of an ECG",
        "check the rate in the header",
    ),
    "mixed_rates": (
        "the leads are sampled at different rates",
        "resample them to one rate",
    ),
    "duplicate_lead": (
        "two signals have the same lead name",
        "keep one of them",
    ),
    "no_standard_lead": (
        "no signal has the name of a standard lead",
        "name the signals I, II, III, aVR, aVL, aVF, V1 to V6",
    ),
    "units": (
        "no lead has a unit of voltage",
        "state mV, uV or V in the header",
    ),
    "no_usable_lead": (
        "every standard lead is constant or mostly missing",
        "check the export; a record without signal cannot be used",
    ),
    "implausible_amplitude": (
        "the voltages are not those of an ECG",
        "check gain and units in the header",
    ),
    "too_short": (
        "the recording is too short",
        "use recordings of at least two seconds",
    ),
    "image_shape": (
        "the volume is not a cine of one slice or stack",
        "store it as (x, y, slice, phase)",
    ),
    "image_type": (
        "the pixels are not grey values",
        "store it as integers or floats",
    ),
    "spacing": (
        "the header has no believable pixel size",
        "convert the images again and keep their spacing",
    ),
    "too_few_phases": (
        "the cine has too few phases to show the motion of the heart",
        "store at least four phases over the cycle",
    ),
    "ed_es_only": (
        "only two phases are there, end-diastole and end-systole: no motion to learn from",
        "export the whole cine; phenotypes from its masks are kept",
    ),
    "incomplete_cine": (
        "frames of the cine are missing",
        "export the series again with all its images",
    ),
    "no_cine": (
        "no cine of this view is among the images",
        "nothing to do, unless the study should hold one: then export it",
    ),
    "several_studies": (
        "images of several studies or patients lie in one folder and cannot be told apart",
        "give every study a folder of its own",
    ),
    "ambiguous_files": (
        "several files could be the same thing",
        "keep one of them",
    ),
    "unknown_view": (
        "the name of the file does not say which view it is",
        "name it <patient>_4ch.nii.gz or <patient>_sax.nii.gz",
    ),
    "mask_labels": (
        "the numbers in the mask are not those of left ventricle, myocardium, right ventricle",
        "label them 1, 2 and 3",
    ),
    "zip": (
        "the archive is damaged or encrypted",
        "download it again",
    ),
    "no_pixels": (
        "the DICOM objects of the study are no images",
        "export the images themselves",
    ),
    "empty_image": (
        "the image is constant or holds values that are not numbers",
        "convert the images again",
    ),
    "io_error": (
        "the file could not be opened or read",
        "check its permissions and the disk or network it lies on; the next run tries again",
    ),
    "reader_crashed": (
        "the decoder ended its process: a damaged file, or more memory than there is",
        "export the record again from its source; the next run tries again",
    ),
    "reader_failed": (
        "the reader met what it does not know",
        "export the record again; if that does not help, report this code with the file's kind",
    ),
    "too_slow": (
        "reading took longer than any such recording should",
        "check the file and its disk; the next run tries again",
    ),
    "no_schema": (
        "an array without a schema: rate, unit and leads are not known",
        "write schema.json beside it with sampling_rate_hz, unit, leads and layout"
        " (docs/site_onboarding.md)",
    ),
    "schema": (
        "the schema beside the array is not JSON with the known keys",
        "keep to sampling_rate_hz, unit, leads, layout, signal, scale, padding, patient_id, age, "
        "sex, recorded",
    ),
    "schema_sampling_rate_hz": (
        "sampling_rate_hz of the schema is not a number",
        "write it without quotes, for example 500",
    ),
    "schema_unit": (
        "unit of the schema is not one of voltage",
        "write mV, uV or V",
    ),
    "schema_leads": (
        "leads of the schema do not fit the array: other names, or another number of them",
        "name each lead once, in the order of the array (of a CSV or Parquet file: its columns)",
    ),
    "schema_layout": (
        "layout of the schema is missing or does not fit the array",
        'write "leads, samples" or "samples, leads", whichever one recording has',
    ),
    "schema_signal": (
        "signal of the schema names no array of recordings in the file",
        "name the data set (HDF5) or the list column (Parquet) that holds the samples",
    ),
    "schema_scale": (
        "scale or padding of the schema is not a number",
        "write it without quotes, or leave it out",
    ),
    "schema_facts": (
        "patient_id, age, sex or recorded of the schema names nothing with one value a recording",
        "name a column or data set of the file that has as many values as recordings",
    ),
    "too_deep": (
        "a folder lies more than a hundred folders deep and was not looked into",
        "give the folder that holds the recordings itself, or move them up",
    ),
}
"""Code -> (cause, next step)."""


class RecordRefused(DataError):
    """One record cannot be used; the others can.

    The message holds neither file name nor identifier: whoever knows which record it is adds that.

    Args:
        code: a key of `REASONS`; the only part that may be counted and reported.
        detail: numbers that help (sizes, rates), never a name.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        cause, step = REASONS[code]
        more = f" ({detail})" if detail else ""
        super().__init__(f"{cause}{more}; {step} [{code}]")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> tuple[type[RecordRefused], tuple[str, str]]:
        return type(self), (self.code, self.detail)
