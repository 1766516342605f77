"""Paired virtual hearts: one heart in one torso, from which both the ECG and the CMR are computed.

Nothing here reads patient data, and nothing else in CardioNets knows how these files were made.

    sites      what a virtual hospital is: scanner, ECG device, case mix, missing data
    heart      who the patient is: body, disease, sizes of the chambers (drawn)
    geometry   the surfaces of that heart, with exact volumes and mass
    conduction when each point is activated (shortest paths on the surfaces)
    electrics  one heart beat at the electrodes
    recording  ten seconds of ECG as the device stores it
    motion     the surfaces over the cardiac cycle
    tissue     what lies around the heart, and how bright each tissue is
    imaging    two cine planes as the scanner stores them
    phenotypes the table: 82 numbers, truth by construction
    patient    all of the above for one patient
    write      the folder of a site
    preview    a picture of a few patients
"""

COHORT_VERSION = 1
"""Rises with every change that alters a written file; a golden test pins the two together."""
