"""DICOM cines made with pydicom, tag by tag; the Sunnybrook images where they are."""

from functools import partial

import numpy as np
import pydicom
import pytest

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.sources.dicom import read_dataset
from cardionets_core.sources.dicom_cine import read_cine_study
from cardionets_core.sources.dicom_frames import view_hint

FOUR_ACROSS, FOUR_DOWN = (0.78, 0.60, 0.17), (-0.60, 0.64, 0.49)


def read(folder, **options):
    def opens(path, pixels):
        return read_dataset(path, pixels=pixels, root=folder)

    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return read_cine_study([partial(opens, path) for path in files], **options)


def plane(across, down):
    across = np.array(across) / np.linalg.norm(across)
    down = np.array(down) - across * (np.array(down) @ across)
    down /= np.linalg.norm(down)
    return [f"{v:.6f}" for v in (*across, *down)]


@pytest.fixture
def grey(beating):
    return beating(phases=6, slices=4)[0]


def test_slices_by_place_and_phases_by_trigger_time(tmp_path, sax_images, save_all, grey):
    images = sax_images(NominalInterval="320", HeartRate="60").values()
    found = read(save_all(tmp_path, images))
    assert found.refused == {} and set(found.views) == {"sax"}
    cine = found.views["sax"]
    np.testing.assert_array_equal(cine.frames, grey[:, 2])  # the middle one of four, from the apex
    assert cine.pixel_mm == (1.5, 1.5) and cine.cycle_s == pytest.approx(0.32)
    person = found.facts.person
    assert (person.patient_id, person.sex, person.age) == ("HOSP-0042", 0.0, 61.0)
    assert found.facts.recorded.isoformat() == "2019-05-03T10:15:00"


def test_numbers_serve_where_trigger_times_are_absent(tmp_path, sax_images, save_all, grey):
    images = sax_images(TriggerTime=None).values()
    np.testing.assert_array_equal(read(save_all(tmp_path, images)).views["sax"].frames, grey[:, 2])
    for image in images:
        image.TriggerTime = "0"
    np.testing.assert_array_equal(read(save_all(tmp_path, images)).views["sax"].frames, grey[:, 2])


def test_a_series_for_every_slice_is_one_stack(tmp_path, sax_images, save_all, grey):
    images = sax_images()
    for (at, _), image in images.items():
        image.SeriesInstanceUID = f"1.2.3.{at + 10}"
        image.SeriesDescription = f"CINE_segmented_SAX_b{at + 1}"
    found = read(save_all(tmp_path, images.values()))
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 2])


def test_stored_on_its_side_it_is_the_same_cine(tmp_path, sax_images, save_all, grey):
    turned = sax_images(grey.swapaxes(2, 3)[..., ::-1])
    for (at, _), image in turned.items():
        across, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        # columns now run against the old rows, rows along the old columns
        origin = np.cross(across, down) * 8.0 * at + down * 1.5 * (grey.shape[2] - 1)
        image.ImagePositionPatient = [f"{v:.5f}" for v in origin]
        image.ImageOrientationPatient = [f"{v:.6f}" for v in (*-down, *across)]
    found = read(save_all(tmp_path, turned.values()))
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 2])


def four_chamber(mr_image, grey, **tags):
    tags = {"series": "1.2.3.77", "SeriesDescription": "", **tags}
    tags.setdefault("ImageOrientationPatient", plane(FOUR_ACROSS, FOUR_DOWN))
    return [mr_image(grey[k, 0] + 9, TriggerTime=40.0 * k, InstanceNumber=k + 1, **tags)
            for k in range(len(grey))]  # fmt: skip


@pytest.mark.parametrize("description", ["CINE_segmented_LAX_4Ch", "cine 4-chamber", "", "LAX"])
def test_both_views(tmp_path, sax_images, save_all, mr_image, grey, description):
    images = [*sax_images(SeriesDescription="").values(),
              *four_chamber(mr_image, grey, SeriesDescription=description),
              *four_chamber(mr_image, grey[::-1], series="1.2.3.78", SeriesDescription="LAX_2Ch",
                            ImageOrientationPatient=plane((0.6, -0.7, -0.4),
                                                          (-0.2, 0.3, -0.9)))]  # fmt: skip
    found = read(save_all(tmp_path, images))
    np.testing.assert_array_equal(found.views["4ch"].frames, grey[:, 0] + 9)
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 2])


def test_a_two_chamber_view_without_a_name_is_not_taken_for_four(tmp_path, save_all, mr_image,
                                                                  sax_images, grey):  # fmt: skip
    two = plane((0.60, -0.60, -0.5), (-0.35, 0.30, -0.9))
    images = [*sax_images().values(), *four_chamber(mr_image, grey, ImageOrientationPatient=two)]
    assert set(read(save_all(tmp_path, images)).views) == {"sax"}


def test_what_looks_like_a_stack_but_is_named_otherwise(tmp_path, sax_images, save_all, code_of):
    for k, name in enumerate(
        ("tagging SAX", "T1map_sax", "CINE_segmented_SAX_InlineVF", "PC flow")
    ):
        folder = save_all(tmp_path / str(k), sax_images(SeriesDescription=name).values())
        assert read(folder).refused == {"study": "no_cine"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [("CINE_segmented_SAX_b7", "sax"), ("CINESAX", "sax"), ("cine_retro_4CV_iPAT2", "4ch"),
     ("Vierkammerblick", "4ch"), ("4 chamber SSFP", "4ch"), ("24 ch coil", ""),
     ("LAX_3Ch", "other"),
     ("sBTFE_BH 4CH", "4ch"), ("kurze Achse", "sax"), ("tf2d SA retro", "sax"), ("FIESTA", ""),
     ("SAX 25 phases iPAT2", "sax"), ("scout", "other"), ("LAX", "long"),
     ("localizer sax", "other")],
)  # fmt: skip
def test_views_in_descriptions(text, hint):
    assert view_hint([text]) == hint


def test_duplicates_do_not_count(tmp_path, sax_images, save_all, grey):
    images = list(sax_images().values())
    save_all(tmp_path / "a", images)
    save_all(tmp_path / "b", images, prefix="copy")  # the same objects
    for image in images:
        image.SOPInstanceUID = image.SOPInstanceUID + ".1"
    save_all(tmp_path / "c", images)  # exported again under new numbers
    np.testing.assert_array_equal(read(tmp_path).views["sax"].frames, grey[:, 2])


def test_of_a_repeated_slice_the_later_series_is_taken(tmp_path, sax_images, save_all, grey):
    first = sax_images()
    again = sax_images(grey + 1000, series="1.2.3.9", SeriesNumber=8)
    images = [*first.values(), *(image for (at, _), image in again.items() if at == 2)]
    np.testing.assert_array_equal(
        read(save_all(tmp_path, images)).views["sax"].frames, grey[:, 2] + 1000
    )


def test_a_slice_short_of_phases_is_passed_over(tmp_path, sax_images, save_all, grey):
    images = sax_images()
    del images[2, 4]
    found = read(save_all(tmp_path, images.values()))
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 1])


def test_missing_frames_are_seen(tmp_path, mr_image, save_all, grey):
    name = {"SeriesDescription": "4ch"}
    gap = four_chamber(mr_image, grey, **name)
    del gap[3]
    assert read(save_all(tmp_path / "a", gap)).refused == {"4ch": "incomplete_cine"}
    short = four_chamber(mr_image, grey, CardiacNumberOfImages=6, **name)[:5]
    assert read(save_all(tmp_path / "b", short)).refused == {"4ch": "incomplete_cine"}


def test_mixed_sizes_stay_apart(tmp_path, mr_image, save_all, grey):
    images = four_chamber(mr_image, grey, SeriesDescription="4ch")
    small = four_chamber(mr_image, grey[:, :, :40, :40], SeriesDescription="4ch")
    found = read(save_all(tmp_path, [*images, *small[:2]]))
    assert found.views["4ch"].frames.shape == grey[:, 0].shape


@pytest.mark.parametrize(("phases", "code"), [(2, "ed_es_only"), (3, "too_few_phases")])
def test_few_phases(tmp_path, sax_images, save_all, grey, phases, code):
    found = read(save_all(tmp_path, sax_images(grey[:phases]).values()))
    assert found.views == {} and found.refused == {"sax": code}


def test_dates_that_are_none(tmp_path, sax_images, save_all):
    found = read(save_all(tmp_path, sax_images(StudyDate="20120000", PatientAge="000").values()))
    assert found.facts.recorded is None and np.isnan(found.facts.person.age)


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLosslessProcess14_1",
                                    "JPEGLSLossless"])  # fmt: skip
def test_compressed_images(tmp_path, mr_image, save_all, grey, syntax):
    save_all(tmp_path, four_chamber(mr_image, grey, SeriesDescription="4ch"))
    for path in tmp_path.iterdir():
        compress(path, syntax)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    found = read(tmp_path)
    assert found.refused == {}
    np.testing.assert_array_equal(found.views["4ch"].frames, grey[:, 0] + 9)


def compress(path, syntax):
    """Let GDCM write the file again in another transfer syntax."""
    import gdcm

    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def enhanced(mr_image, grey):
    """One enhanced multi-frame object: frames in a shuffled order, geometry in groups."""
    order = [(s, k) for s in range(grey.shape[1]) for k in range(len(grey))]
    np.random.default_rng(0).shuffle(order)
    image = mr_image(np.stack([grey[k, s] for s, k in order]), NumberOfFrames=len(order))
    across, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    data = pydicom.Dataset
    shared, orient, measure = data(), data(), data()
    orient.ImageOrientationPatient = image.ImageOrientationPatient
    measure.PixelSpacing = image.PixelSpacing
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orient], [measure]
    image.SharedFunctionalGroupsSequence, groups = [shared], []
    for s, k in order:
        group, place, sync = data(), data(), data()
        position = np.cross(across, down) * 8.0 * s
        place.ImagePositionPatient = [f"{v:.5f}" for v in position]
        sync.NominalCardiacTriggerDelayTime, sync.RRIntervalTimeNominal = 40.0 * k, 400.0
        group.PlanePositionSequence, group.CardiacSynchronizationSequence = [place], [sync]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(image, name)
    return image


def test_enhanced_multi_frame(tmp_path, mr_image, save_all, grey):
    found = read(save_all(tmp_path, [enhanced(mr_image, grey)]))
    np.testing.assert_array_equal(found.views["sax"].frames, grey[:, 2])
    assert found.views["sax"].cycle_s == pytest.approx(0.4)


def test_one_torn_file_costs_its_view_only(tmp_path, sax_images, save_all, mr_image, grey):
    save_all(tmp_path / "sax", sax_images().values())
    save_all(tmp_path / "4ch", four_chamber(mr_image, grey, SeriesDescription="4ch"))
    torn = sorted((tmp_path / "4ch").iterdir())[2]
    torn.write_bytes(torn.read_bytes()[:-3000])
    found = read(tmp_path)
    assert set(found.views) == {"sax"} and set(found.refused) == {"4ch"}
    assert found.refused["4ch"] in ("truncated", "unreadable", "header")


def test_a_broken_header_is_said(tmp_path, sax_images, save_all):
    save_all(tmp_path, sax_images().values())
    whole = next(tmp_path.iterdir()).read_bytes()
    (tmp_path / "z.dcm").write_bytes(whole[: whole.index(b"HOSP-0042")])
    found = read(tmp_path)
    assert set(found.views) == {"sax"} and set(found.refused) == {"study"}


def test_several_patients_or_studies_are_refused(tmp_path, sax_images, save_all, code_of):
    save_all(tmp_path / "a", sax_images().values())
    images = sax_images(study="1.2.4", series="1.2.4.1", PatientID="HOSP-0043").values()
    save_all(tmp_path / "b", images)
    assert code_of(read, tmp_path) == "several_studies"
    found = read(tmp_path, study="1.2.3")
    assert found.refused == {"study": "several_studies"} and set(found.views) == {"sax"}
    assert found.facts.person.patient_id == "HOSP-0042"


def test_what_is_no_image_is_refused(tmp_path, sax_images, save_all, code_of):
    (tmp_path / "notes").write_text("no DICOM")
    assert code_of(read, tmp_path) == "no_pixels"
    image = next(iter(sax_images().values()))
    del image.PixelSpacing
    save_all(tmp_path, [image])
    assert code_of(read, tmp_path) == "spacing"


def test_refusals_hold_no_patient(tmp_path, sax_images, save_all):
    images = list(sax_images(PatientName="Canary^Anna", ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
                  .values())  # fmt: skip
    with pytest.raises(RecordRefused) as refusal:
        read(save_all(tmp_path, images))
    assert "anary" not in str(refusal.value) and "HOSP" not in repr(refusal.value)


def test_sunnybrook_has_end_diastole_and_end_systole_only(shared_data):
    found = read(shared_data / "sunnybrook-mini")
    assert found.views == {} and found.refused == {"sax": "ed_es_only"}
    assert found.facts.recorded is None  # StudyDate 20120000
    assert found.facts.person.patient_id
