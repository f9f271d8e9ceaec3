# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters that look like other letters, in names and hosts.

Reads hostile text; linear. Of Unicode's 6,000 confusable pairs (UTS 39) these are the ones that
make up names in Latin letters and that mail clients draw alike; the packages that carry the whole
table cost half a megabyte and tens of milliseconds in each process, and call "rn" and "m" different.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_PAIRS = (
    # Cyrillic
    "аa вb сc ԁd еe ғf ԍg һh іi јj кk ӏl мm ոn оo рp ԛq ѕs тt цu ѵv ԝw хx уy ѡw ьb зe "
    # Greek
    "αa βb ϲc εe ηn ιi κk νv οo ρp τt υu χx γy ωw ϳj σo "
    # Armenian, Cherokee and others
    "օo սu հh զq ցg յj տs ւl Ꭺa Ꭼe Ꮯc Ꮮl Ꮪs Ꭲt Ꮩv Ꮃw Ꭰd Ꮋh Ꮖl ⲟo ⲣp ⲥc "
    # Latin beyond the alphabets
    "ɑa ɓb ɗd ɡg ɩi ıi ȷj ƙk łl øo đd ħh ŧt ʀr ɾr ꜱs ᴀa ᴄc ᴅd ᴇe ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ᴛt ᴜu ᴠv ᴡw "
    "ʏy ᴢz ƅb ƒf ǀl ɫl ƚl ʋv ɯw ɳn ɲn ʂs ƴy ɵo"
)
_LOOKS = {ord(pair[0]): pair[1] for pair in _PAIRS.split()} | {ord("æ"): "ae", ord("œ"): "oe", ord("þ"): "p"}
# In a host, what small type does not tell apart.
_DRAWN = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_DIGITS = str.maketrans("0135i", "olesl")
_ALIKE = frozenset(("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "GEORGIAN"))


def skeleton(text: str) -> str:
    """What `text` looks like, in Latin letters of lower case where it looks like those (UTS 39 §4)."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold()).translate(_LOOKS)
    return "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Cf")).lower()


@lru_cache(maxsize=4096)
def drawn(host: str) -> str:
    """What a host looks like in small type: `skeleton`, and 1, l and i, 0 and o, rn and m are one."""
    found = skeleton(host).translate(_DIGITS)
    for two, one in _DRAWN:
        found = found.replace(two, one)
    return found


@lru_cache(maxsize=4096)
def deceptive(label: str) -> bool:
    """Whether a label of a host passes for Latin letters without being that.

    It mixes alphabets that look alike, is made of nothing but look-alikes of another alphabet, or
    takes letters from phonetic alphabets. "münchen", "пример" and "日本go" are what they are.
    """
    if label.isascii():
        return False
    scripts = {unicodedata.name(c, "").partition(" ")[0] for c in label if c.isalpha()} & _ALIKE
    if len(scripts) > 1:
        return True
    if any("\u0250" <= c <= "\u02af" or "\u1d00" <= c <= "\u1d7f" for c in label):
        return True
    return bool(scripts) and scripts != {"LATIN"} and skeleton(label).isascii()
