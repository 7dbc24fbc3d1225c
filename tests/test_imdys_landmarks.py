from __future__ import annotations

import pytest

from imdy_plugin.errors import InputError
from imdy_plugin.solvers.imdys import landmarks as lm

MARKER_SETS = {
    "Rajagopal model": "RACR LACR C7 CLAV RASI LASI RPSI LPSI RLFC RMFC RLMAL RMMAL RTH1 RTH3 RTB1 RTB3 RCAL RTOE RMT5 LLFC LLMAL LCAL LTOE LMT5",
    "ISB": "L_IAS L_IPS R_IPS R_IAS L_FTC L_FLE L_FAL L_TAM L_FCC L_FM1 L_FM2 L_FM5 R_FTC R_FLE R_FAL R_FCC R_FM1 R_FM2 R_FM5 CV7 TV10 SXS SJN R_SAE L_SAE",
    "treadmill running": "L.ASIS L.Heel.Bottom L.MT1 L.MT5 L.PSIS L.Toe R.ASIS R.Heel.Bottom R.MT1 R.MT5 R.PSIS R.Toe R.Iliac.Crest R.Shank.Bottom.Lateral",
    "Plug-in Gait": "C7 T10 CLAV STRN LSHO RSHO RELB LELB RWRA RWRB SACR RASI LASI RTHI RKNE RTIB RANK RHEE RTOE LHEE LTOE LANK RD5M LD5M",
    "OpenCap": "C7 L.ASIS L.PSIS L_5meta L_Shoulder L_ankle L_calc L_knee L_thigh1 L_toe R_Shoulder r.ASIS r.PSIS r_5meta r_ankle r_calc r_knee r_toe r_sh3",
    "sprint": "C7 RSH LSH RASI LASI SACR LTHLP LLEPI LTIAP LTILAT LLMAL LHEEL LP1MT LTOE LP5MT RTHLP RLEPI RLMAL RHEEL RP1MT RTOE RP5MT",
    "Gait2392": "R.ASIS L.ASIS V.Sacral R.Thigh.Upper R.Heel R.Toe.Tip L.Heel L.Toe.Tip R.Toe.Lat L.Toe.Lat Sternum R.Acromium L.Acromium R.Elbow R.Wrist.Lat",
    "walk": "R.Shoulder L.Shoulder R.ASIS L.ASIS R.PSIS S2 L.PSIS R.TH1 R.Knee R.SH1 R.Ankle R.Heel R.MT5 R.Toe L.Ankle L.Heel L.MT5 L.Toe",
    "CMU": "Anna:RBWT Anna:LBWT Anna:RFWT Anna:LFWT Anna:RTHI Anna:RKNE Anna:RANK Anna:RHEE Anna:RTOE Anna:RMT5 Anna:LHEE Anna:LTOE Anna:LMT5",
    "Lencioni": "C7 RxShould LxShould Psis RxAsis LxAsis RxThigh RxLatCon RxFH RxLatMal RxHeel LxHeel RxToe1 LxToe1 RxMeta5 LxMeta5",
}


@pytest.mark.parametrize("source", MARKER_SETS)
def test_every_source_is_understood(source: str) -> None:
    names = MARKER_SETS[source].split()
    found = lm.match_landmarks(names)
    assert {"RASI", "LASI", "RHEE", "LHEE"} <= set(found)
    assert set(found.values()) <= set(names)
    assert len(set(found.values())) == len(found), "a marker stands for two landmarks"
    assert len(found) >= len(names) - 2, f"not understood: {set(names) - set(found.values())}"


def test_sides_are_kept_apart() -> None:
    found = lm.match_landmarks(MARKER_SETS["ISB"].split())
    assert all(marker.startswith(landmark[0] + "_") for landmark, marker in found.items() if landmark[0] in "RL" and landmark != "RSHO")


def test_names_are_compared_without_case_punctuation_and_subject() -> None:
    assert lm.normalised("Anna 1:R.ASIS") == lm.normalised("r_asis") == "rasis"


def test_no_name_means_two_landmarks() -> None:
    aliases = [a for names in lm.ALIASES.values() for a in names]
    assert len(aliases) == len(set(aliases))


def test_mirror_is_an_involution_that_swaps_sides() -> None:
    assert [lm.mirrored(lm.mirrored(n)) for n in lm.LANDMARKS] == list(lm.LANDMARKS)
    assert (lm.mirrored("RASI"), lm.mirrored("SACR")) == ("LASI", "SACR")


def test_too_few_landmarks_say_what_was_found_what_lacks_and_what_is_near() -> None:
    with pytest.raises(InputError) as error:
        lm.match_landmarks(["RASI", "LASI", "RHEEEL", "LHEE"])
    message = str(error.value)
    assert "RASI=RASI" in message
    assert "at least 8" in message
    assert "right foot" in message
    assert "nearest: RHEEEL" in message


def test_a_foot_without_markers_is_refused() -> None:
    names = [n for n in MARKER_SETS["ISB"].split() if n not in ("R_FAL", "R_FCC", "R_FM1", "R_FM2", "R_FM5")]
    with pytest.raises(InputError, match="0 on the right foot"):
        lm.match_landmarks(names)


def test_left_and_right_must_be_told_apart() -> None:
    with pytest.raises(InputError, match="left from right"):
        lm.match_landmarks(["RASI", "LPSI", "SACR", "RHEE", "RTOE", "RMT5", "LHEE", "LTOE", "LMT5"])
