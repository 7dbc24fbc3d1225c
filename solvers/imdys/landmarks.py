"""Which marker is which landmark of the body: one table of names for all marker sets.

A landmark is a place on the body that the network knows by name. Laboratories name their markers differently; names are
compared without case, punctuation and ``subject:`` prefix, so that ``R.ASIS``, ``r_asis`` and ``Anna:RASIS`` are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from imdy_plugin.errors import InputError, suggest

SIDES = ("R", "L")

_MIDLINE: dict[str, str] = {
    "C7": "c7 cv7",
    "T10": "t10 tv10 t7",
    "CLAV": "clav sjn man sternum",
    "STRN": "strn sxs",
    "SACR": "sacr sacrum vsacral vsacrum s2 psis",
}

# "@" stands for the side, r or l. Earlier names win where a set holds several.
_SIDED: dict[str, str] = {
    "FHD": "@fhd @temple @xcheec",
    "BHD": "@bhd",
    "CLV": "@clavicle @sternum",
    "SHO": "@sho @shoulder @acr @acromium @acromion @sae @sh @xshould",
    "UPA": "@upa @ua1 @biceps @bicep @humerus @arm",
    "ELB": "@elb @lel @elbow @elbowlat @hle @xelbow",
    "ELM": "@mel @melbow @elbowmed @hme",
    "WRA": "@wra @faradius @rsp @wristradius @wristlat @wrist @wr @xwrist",
    "WRB": "@wrb @faulna @uhe @wristulna @wristmed",
    "ASI": "@asi @asis @ias @fwt @xasis",
    "PSI": "@psi @psis @ips @bwt @xpsis",
    "ILC": "@iliaccrest @ilc",
    "GTR": "@gtr @ftc @troch",
    "THU": "@th1 @thigh1 @thightoplateral @thlp @thighupper @thi @thigh @xthigh",
    "THL": "@th3 @thigh3 @thighbottomlateral @thld @thighrear",
    "KNE": "@kne @knee @kneelat @lfc @fle @lepi @xlatcon",
    "KNM": "@mknee @kneemedial @kneemed @mfc @fme @mepi",
    "TTU": "@tt @ttc @tub",
    "SHU": "@tb1 @sh1 @shanktoplateral @hf @hfb @fax @tiap @shankupper @xfh @shankantsup",
    "SHL": "@tb3 @sh3 @shankbottomlateral @tilat @shankrear @shn @tib @xshank",
    "ANK": "@ank @ankle @anklelat @lmal @fal @xlatmal",
    "ANM": "@mankle @anklemedial @anklemed @mmal @tam @mma",
    "HEE": "@hee @heel @cal @calc @fcc @heelbottom @xheel",
    "MT5": "@mt5 @fm5 @5meta @d5m @p5mt @p5m @xmeta5 @toelat",
    "MT1": "@mt1 @fm1 @d1m @p1mt @p1m @toemed",
    "TOE": "@toe @mt2 @fm2 @xtoe1 @toetip",
}

FOOT = ("HEE", "MT5", "MT1", "TOE", "ANK", "ANM")
"""Landmarks of a foot, without the side."""

CLUSTERS = ("THU", "THL", "SHU", "SHL", "UPA")
"""Landmarks of segments rather than bones, without the side: every laboratory puts them elsewhere."""

PELVIS = ("SACR", *(s + n for s in SIDES for n in ("ASI", "PSI", "ILC", "GTR")))
"""Landmarks of the pelvis, trochanters included."""

LANDMARKS: tuple[str, ...] = (*_MIDLINE, *(s + n for s in SIDES for n in _SIDED))
"""All landmarks; a sided one begins with its side, ``RASI``."""

LEFT_RIGHT_PAIRS = ("ASI", "PSI", "ILC", "GTR", "KNE", "SHO")
"""Pairs that tell left from right, best first, without the side."""

MINIMUM_LANDMARKS, MINIMUM_PELVIS, MINIMUM_FOOT = 8, 2, 2
"""What a motion must hold at least: landmarks in all, on the pelvis, and on each foot."""


def normalised(name: str) -> str:
    """A marker name without ``subject:`` prefix, case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.rsplit(":", 1)[-1].lower())


def mirrored(landmark: str) -> str:
    """The same landmark on the other side of the body."""
    if landmark in _MIDLINE:
        return landmark
    return SIDES[1 - SIDES.index(landmark[0])] + landmark[1:]


def _aliases(landmark: str) -> list[str]:
    if landmark in _MIDLINE:
        return _MIDLINE[landmark].split()
    return [a.replace("@", landmark[0].lower()) for a in _SIDED[landmark[1:]].split()]


ALIASES: Mapping[str, tuple[str, ...]] = {landmark: tuple(_aliases(landmark)) for landmark in LANDMARKS}
"""For each landmark the normalised marker names that mean it, preferred ones first."""


def find_landmarks(names: Iterable[str]) -> dict[str, str]:
    """The marker of each landmark that ``names`` hold; the others are left out.

    Where two markers differ only by prefix, case or punctuation the first one is taken.
    """
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(normalised(name), name)
    found = {landmark: next((by_name[a] for a in aliases if a in by_name), None) for landmark, aliases in ALIASES.items()}
    return {landmark: marker for landmark, marker in found.items() if marker is not None}


def match_landmarks(names: Iterable[str]) -> dict[str, str]:
    """The marker of each landmark, checked to be enough to tell how the body moves.

    Parameters
    ----------
    names
        Names of the markers.

    Returns
    -------
    dict
        From landmark to marker name, in the order of :data:`LANDMARKS`.

    Raises
    ------
    InputError
        Fewer than :data:`MINIMUM_LANDMARKS` landmarks, too few on the pelvis or on a foot, or no pair that tells left
        from right. The message lists what was found, what is lacking, and the nearest names.
    """
    names = list(names)
    found = find_landmarks(names)
    problems = _shortfalls(found)
    if problems:
        got = ", ".join(f"{landmark}={marker}" for landmark, marker in found.items()) or "none"
        raise InputError(f"too few landmarks among {len(names)} markers: {'; '.join(problems)}. Found: {got}. {_nearest(found, names)}")
    return found


def _shortfalls(found: Mapping[str, str]) -> list[str]:
    counts = [("landmarks in all", LANDMARKS, MINIMUM_LANDMARKS), ("on the pelvis", PELVIS, MINIMUM_PELVIS)]
    counts += [(f"on the {word} foot", tuple(s + n for n in FOOT), MINIMUM_FOOT) for s, word in zip(SIDES, ("right", "left"), strict=True)]
    problems = []
    for place, members, least in counts:
        have = [m for m in members if m in found]
        if len(have) < least:
            lacking = "" if members is LANDMARKS else f" (lacking {', '.join(m for m in members if m not in found)})"
            problems.append(f"{len(have)} {place}, at least {least} are needed{lacking}")
    if not any(f"R{n}" in found and f"L{n}" in found for n in LEFT_RIGHT_PAIRS):
        problems.append(f"no pair to tell left from right, one of {', '.join(f'R{n}/L{n}' for n in LEFT_RIGHT_PAIRS)} is needed")
    return problems


def _nearest(found: Mapping[str, str], names: list[str]) -> str:
    used = set(found.values())
    unused = [n for n in names if n not in used]
    wanted = [m for m in ("RASI", "LASI", "RPSI", "LPSI", "RHEE", "LHEE", "RTOE", "LTOE") if m not in found]
    hints = [f"{m} ({'/'.join(ALIASES[m][:3])}): {suggest(m, unused)}" for m in wanted]
    return "Rename markers to one of the known names; " + " ".join(hints) if hints and unused else "Add the lacking markers."
