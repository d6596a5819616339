"""What we think of each licence, and of each library that a package brings along; what is not here is not judged."""

from __future__ import annotations

from dataclasses import dataclass

PERMISSIVE = "may be used, changed and passed on; its notice goes along"
WEAK = "changes to its own files are passed on under it; ours are free"
RUNTIME = "the exception lets every program link it"

#: Every licence (SPDX where there is one), and what follows for who passes the node on.
LICENCES: dict[str, str] = {
    **dict.fromkeys(
        (
            "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
            "CC0-1.0", "FTL", "HPND", "IJG", "ISC", "MIT", "MIT-CMU", "MIT-Modern-Variant", "PSF-2.0",
            "Public Domain", "Zlib", "libpng-2.0", "libtiff", "OpenSSL",
        ),
        PERMISSIVE,
    ),
    "MPL-2.0": WEAK,
    "GPL-3.0-or-later WITH GCC-exception-3.1": RUNTIME,
    "LGPL-2.1-or-later": "a library of its own file, which may be replaced; its source is to be offered with it",
}  # fmt: skip

#: What packages state in other words than SPDX's.
STATED: dict[str, str] = {
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


@dataclass(frozen=True, slots=True)
class Library:
    """A library that a package brings along: its project, its licence, and what else is to be known."""

    project: str
    licence: str
    note: str = ""


_GCC = "GPL-3.0-or-later WITH GCC-exception-3.1"
_OLD_OPENSSL = (
    "End of life since September 2023, with known faults. GDCM links it to encrypt attributes, which this node never "
    "asks for; no TLS of the node uses it, and no byte from the network reaches it. It goes when GDCM goes."
)
_INSIDE_GDCM = "an old copy inside GDCM"

#: By the name of the file, without what tells builds apart.
LIBRARIES: dict[str, Library] = {
    "libXau": Library("libXau", "MIT"),
    "libavif": Library("libavif", "BSD-2-Clause"),
    "libbrotlicommon": Library("Brotli", "MIT"),
    "libbrotlidec": Library("Brotli", "MIT"),
    "libcrypto": Library("OpenSSL 1.1.1", "OpenSSL", _OLD_OPENSSL),
    "libfreetype": Library("FreeType", "FTL"),
    "libgdcmcharls": Library("CharLS 2.0", "BSD-3-Clause", _INSIDE_GDCM),
    "libgdcmexpat": Library("Expat 2.0", "MIT", f"{_INSIDE_GDCM}; it reads XML, which this node never gives it"),
    "libgdcmjpeg12": Library("IJG's libjpeg, 12 bits", "IJG", _INSIDE_GDCM),
    "libgdcmjpeg16": Library("IJG's libjpeg, 16 bits", "IJG", _INSIDE_GDCM),
    "libgdcmjpeg8": Library("IJG's libjpeg, 8 bits", "IJG", _INSIDE_GDCM),
    "libgdcmopenjp2": Library(
        "OpenJPEG 2.3.0", "BSD-2-Clause", f"{_INSIDE_GDCM}, with known faults; GDCM gets no JPEG 2000"
    ),
    "libgdcmuuid": Library("libuuid", "BSD-3-Clause", _INSIDE_GDCM),
    "libgdcmzlib": Library("zlib", "Zlib", _INSIDE_GDCM),
    "libgfortran": Library("GCC's runtime", _GCC),
    "libgomp": Library("GCC's runtime", _GCC),
    "libharfbuzz": Library("HarfBuzz", "MIT-Modern-Variant"),
    "libjpeg": Library("libjpeg-turbo", "IJG"),
    "liblcms2": Library("Little CMS", "MIT"),
    "liblzma": Library("XZ Utils", "0BSD"),
    "libopenjp2": Library("OpenJPEG", "BSD-2-Clause"),
    "libpng16": Library("libpng", "libpng-2.0"),
    "libquadmath": Library("GCC's runtime", "LGPL-2.1-or-later"),
    "libscipy_openblas": Library("OpenBLAS", "BSD-3-Clause"),
    "libscipy_openblas64_": Library("OpenBLAS", "BSD-3-Clause"),
    "libsharpyuv": Library("libwebp", "BSD-3-Clause"),
    "libsocketxx": Library("socket++", "BSD-3-Clause", f"{_INSIDE_GDCM}; this node uses no network of GDCM's"),
    "libssl": Library("OpenSSL 1.1.1", "OpenSSL", _OLD_OPENSSL),
    "libtiff": Library("LibTIFF", "libtiff"),
    "libwebp": Library("libwebp", "BSD-3-Clause"),
    "libwebpdemux": Library("libwebp", "BSD-3-Clause"),
    "libwebpmux": Library("libwebp", "BSD-3-Clause"),
    "libxcb": Library("libxcb", "MIT"),
    "libzstd": Library("Zstandard", "BSD-3-Clause"),
}

#: Libraries that are the package itself, by their beginnings.
OWN: dict[str, tuple[str, ...]] = {
    "python-gdcm": (
        "_gdcmswig", "libgdcmCommon", "libgdcmDICT", "libgdcmDSED", "libgdcmIOD", "libgdcmMEXD", "libgdcmMSFF",
    ),
    "torch": ("libaoti", "libbackend", "libc10", "libjit", "libshm", "libtorch"),
}  # fmt: skip

#: What is inside extension modules, where no scan sees it; as the packages' own licence files say.
INSIDE: dict[str, str] = {
    "matplotlib": "FreeType (FTL), Anti-Grain Geometry and Qhull (permissive)",
    "numpy": "OpenBLAS's LAPACK, random number generators (BSD-3-Clause, MIT)",
    "pydantic-core": "Rust crates (MIT, Apache-2.0)",
    "pyjpegls": "CharLS (BSD-3-Clause)",
    "pylibjpeg-openjpeg": "OpenJPEG (BSD-2-Clause)",
    "pyyaml": "LibYAML (MIT)",
    "scipy": "ARPACK, SuperLU, Qhull, Boost and others (BSD, BSL-1.0)",
    "torch": "oneDNN, FBGEMM, protobuf, sleef and others (Apache-2.0, BSD, MIT, BSL-1.0)",
    "playwright": "Node.js (MIT and others); the tests alone use it",
    "ruff": "Rust crates (MIT, Apache-2.0); a check alone",
}
