import hashlib
import http.server
import io
import os
import re
import shutil
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ddtb_lite import archives, datasets, images
from ddtb_lite.support import resources

DATA = os.environ.get("DDTB_DATA")


def picture(seed: int, height: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, 50, 3), dtype=np.uint8)


def encoded(seed: int, folder: Path) -> bytes:
    images.write(folder / "picture.png", picture(seed))
    data = (folder / "picture.png").read_bytes()
    (folder / "picture.png").unlink()
    return data


def packed(folder: Path, kind: str = "zip", inside: str = "pack/HR", count: int = 3) -> bytes:
    """An archive with `count` images in the folder `inside`, and things around them that must stay out."""
    contents = {f"{inside}/{index}.png": encoded(index, folder) for index in range(count)}
    others = {f"{inside}/readme.txt": b"hello", "pack/LR/0.png": contents[f"{inside}/0.png"]}
    others[f"{inside}/._0.png"] = b"metadata of another system"
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in (contents | others).items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as bundle:
            for name, data in (contents | others).items():
                bundle.addfile(_member("./" + name, data), io.BytesIO(data))
    return buffer.getvalue()


def _member(name: str, data: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member


# ------------------------------------------------------------------------------------------- registry


def test_registry_is_complete_and_sane() -> None:
    sets = datasets.registry()
    wanted = "Set5 Set14 BSD100 Urban100 Manga109 DIV2K BSD200_train BSD200_test T91 General100"
    assert set(sets) == set(wanted.split())
    for entry in sets.values():
        assert entry.images > 0 and entry.licence and entry.page.startswith("http") and entry.about
        assert entry.use in ("test", "training")
        for source in entry.sources:
            assert source.url.startswith(("http://", "https://")) and source.folder
            assert source.size >= 0 and len(source.sha256) in (0, 64)
            assert source.sha256 == "" or int(source.sha256, 16)
    assert sets["DIV2K"].sources[0].size == 3530603713


def test_same_archive_has_the_same_checksum_everywhere() -> None:
    known: dict[str, tuple[int, str]] = {}
    for entry in datasets.registry().values():
        for source in entry.sources:
            assert known.setdefault(source.url, (source.size, source.sha256)) == (source.size, source.sha256)


def test_installed_package_reads_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where somebody else's folder "data" lies beside it, as it may among installed packages."""
    known = list(datasets.registry())
    package = tmp_path / "ddtb_lite"
    (package / "_data").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "datasets.toml").write_text("")
    shutil.copy(resources.data("datasets.toml"), package / "_data")
    monkeypatch.setattr(resources, "PACKAGE", package)
    assert resources.repository() is None
    assert list(datasets.registry.__wrapped__()) == known
    with pytest.raises(ValueError, match="in a checkout"):
        resources.published("results")


# ------------------------------------------------------------------------------------- embedded photos


def test_embedded_photos() -> None:
    test, training = datasets.load("photos"), datasets.load("photos_train")
    assert not set(datasets.PHOTOS) & set(datasets.PHOTOS_TRAIN)
    assert [name for name, _ in test] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert len(training) == 11
    for _, image in test:
        assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape[:2]) >= 300
        assert (image[..., 0] != image[..., 2]).mean() > 0.5, "a colour photo"
    for path in datasets.paths("photos"):
        assert path.parent.name == "data" and path.parent.parent.name == "skimage"


def test_the_licences_page_names_every_photo_and_every_set_with_its_size() -> None:
    page = (Path(__file__).parents[1] / "book/reference/data-and-licences.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    named = {word for first, *_ in lines for word in re.findall(r"`(\w+)`", first)}
    assert {Path(name).stem for name in datasets.PHOTOS + datasets.PHOTOS_TRAIN} <= named
    sizes = {line[0]: line[1] for line in lines}
    for name, entry in datasets.registry().items():
        assert sizes[name] == str(entry.images), name


def test_no_photo_is_on_both_sides() -> None:
    small = {}
    for name, image in datasets.load("photos") + datasets.load("photos_train"):
        grey = images.luma(image)
        rows, columns = (np.linspace(0, size - 1, 16).astype(int) for size in grey.shape)
        small[name] = (grey[rows][:, columns] - grey.mean()).ravel() / grey.std()
    for test in datasets.PHOTOS:
        for training in datasets.PHOTOS_TRAIN:
            assert abs(small[Path(test).stem] @ small[Path(training).stem]) / 256 < 0.7


# -------------------------------------------------------------------------------------------- reading


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDTB_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        images.write(folder / f"{index}.png", picture(index))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDTB_DATA", str(tmp_path))
    assert datasets.root() == tmp_path
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for unset in ("", None):
        monkeypatch.setenv("DDTB_DATA", "") if unset == "" else monkeypatch.delenv("DDTB_DATA")
        assert datasets.root() == tmp_path / ".cache" / "ddtb_lite" / "data"


@pytest.mark.parametrize("place", ["Set5", "Set5/HR", "benchmark/Set5/HR", "Set5/Set5_HR"])
def test_registered_set_is_found(place: str, home: Path) -> None:
    fill(home / place, 5)
    assert [path.name for path in datasets.paths("Set5")] == [f"{index}.png" for index in range(5)]
    name, image = datasets.load("Set5")[3]
    assert name == "3" and np.array_equal(image, picture(3))


def test_incomplete_set_is_refused(home: Path) -> None:
    fill(home / "Set5", 4)
    for call in (datasets.paths, datasets.download):
        with pytest.raises(ValueError, match="4 images, expected 5"):
            call("Set5")


def test_excluded_image_is_left_out(home: Path) -> None:
    fill(home / "BSD200_train", 199)
    images.write(home / "BSD200_train" / "302003.png", picture(1))
    assert len(datasets.paths("BSD200_train")) == 199
    assert "302003" not in [path.stem for path in datasets.paths("BSD200_train")]


def test_missing_sets_say_what_to_do(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m ddtb_lite download Set5`, or set DDTB_DATA"):
        datasets.paths("Set5")
    with pytest.raises(FileNotFoundError, match="manga109.org"):
        datasets.paths("Manga109")
    with pytest.raises(FileNotFoundError, match="data sets: photos, photos_train, Set5"):
        datasets.load("Set6")
    with pytest.raises(FileNotFoundError, match="data set ''"):
        datasets.load("")
    with pytest.raises(ValueError, match="holds no image"):
        datasets.paths(fill(home / "empty", 0))


def test_folders(home: Path, tmp_path: Path) -> None:
    folder = fill(tmp_path / "mine", 3)
    assert datasets.paths(folder) == datasets.paths(str(folder)) == sorted(folder.glob("[0-9].png"))
    fill(home / "own set", 2)
    assert len(datasets.paths("own set")) == 2


def test_lists(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mine", 1)
    mixed = [picture(5), folder / "0.png", ("named", picture(6)), str(folder / "0.png")]
    assert [name for name, _ in datasets.load(mixed)] == ["image_0", "0", "named", "0"]
    assert np.array_equal(datasets.load(mixed)[1][1], picture(0))
    for bad in ([], [picture(0)[..., 0]], [picture(0) / 255], [3]):
        with pytest.raises(ValueError, match="expected"):
            datasets.load(bad)


def test_fingerprint(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mine", 2)
    by_hand = hashlib.sha256()
    for index in range(2):
        by_hand.update(f"1 {index} 40 50 ".encode() + picture(index).tobytes())
    assert datasets.fingerprint(folder) == datasets.fingerprint(datasets.load(folder)) == by_hand.hexdigest()
    changed = datasets.load(folder)
    changed[1][1][7, 7, 1] ^= 1
    renamed = [("other", image) for _, image in datasets.load(folder)]
    reshaped = [(name, image.reshape(50, 40, 3)) for name, image in datasets.load(folder)]
    prints = [datasets.fingerprint(data) for data in (folder, changed, renamed, reshaped)]
    assert len(set(prints)) == 4


@pytest.mark.skipif(DATA is None, reason="DDTB_DATA is not set: no benchmark images")
@pytest.mark.parametrize("name", ["Set5", "Set14", "BSD100", "BSD200_train", "BSD200_test", "T91"])
def test_real_sets_are_complete(name: str) -> None:
    assert len(datasets.paths(name)) == datasets.registry()[name].images


# ------------------------------------------------------------------------------------------ unpacking


@pytest.mark.parametrize("kind", ["zip", "", "gz", "xz"])
def test_unpack(kind: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(packed(tmp_path, kind))
    target = archives.unpack(tmp_path / "archive", "pack/HR", tmp_path / "new" / "Set", 3)
    assert sorted(path.name for path in target.iterdir()) == ["0.png", "1.png", "2.png"]
    assert np.array_equal(images.read(target / "2.png"), picture(2))
    assert [path.name for path in target.parent.iterdir()] == ["Set"]
    archives.unpack(tmp_path / "archive", "pack/HR", tmp_path / "two", 2, exclude=("1",))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["0.png", "2.png"]


def link(kind: bytes, name: str = "pack/HR/9.png") -> Callable[[tarfile.TarFile], None]:
    def add(bundle: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        bundle.addfile(member)

    return add


def file(name: str) -> Callable[[tarfile.TarFile], None]:
    return lambda bundle: bundle.addfile(_member(name, b"evil"), io.BytesIO(b"evil"))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (file("../evil.png"), "leads outside"),
        (file("pack/HR/../../../evil.png"), "leads outside"),
        (file("/tmp/evil.png"), "leads outside"),
        (file("..\\evil.png"), "leads outside"),
        (file("C:\\evil.png"), "leads outside"),
        (file("pack/HR/a:b.png"), "unsafe name"),
        (link(tarfile.SYMTYPE), "link or device"),
        (link(tarfile.LNKTYPE), "link or device"),
        (link(tarfile.CHRTYPE), "link or device"),
        (link(tarfile.FIFOTYPE), "link or device"),
        (file("pack/HR/0.PNG"), "doubled"),
        (file("pack/HR/3.png"), "holds 4 images in pack/HR, expected 3"),
    ],
)
def test_tar_that_attacks(add: Callable[[tarfile.TarFile], None], message: str, tmp_path: Path) -> None:
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.tar").write_bytes(packed(tmp_path, ""))
    with tarfile.open(inner / "a.tar", "a") as bundle:
        add(bundle)
    with pytest.raises(RuntimeError, match=message):
        archives.unpack(inner / "a.tar", "pack/HR", inner / "Set", 3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "deep", "inner"]


def test_a_link_to_a_folder_cannot_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as bundle:
        folder = tarfile.TarInfo("pack/HR")
        folder.type, folder.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        bundle.addfile(folder)
        file("pack/HR/0.png")(bundle)
    archives.unpack(tmp_path / "a.tar", "pack/HR", tmp_path / "Set", 1)
    assert not list((tmp_path / "outside").iterdir())
    assert (tmp_path / "Set" / "0.png").read_bytes() == b"evil"


def test_zip_that_attacks(tmp_path: Path) -> None:
    for name, mode, message in [
        ("../evil.png", stat.S_IFREG, "leads outside"),
        ("/evil.png", stat.S_IFREG, "leads outside"),
        ("pack/HR/9.png", stat.S_IFLNK, "link or device"),
    ]:
        (tmp_path / "a.zip").write_bytes(packed(tmp_path))
        with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (mode | 0o644) << 16
            archive.writestr(entry, "/etc/passwd")
        with pytest.raises(RuntimeError, match=message):
            archives.unpack(tmp_path / "a.zip", "pack/HR", tmp_path / "Set", 3)
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("kind", ["zip", "", "gz", "xz"])
def test_damaged_archives(kind: str, tmp_path: Path) -> None:
    whole = packed(tmp_path, kind)
    flipped = bytearray(whole)
    for index in range(len(whole) // 4, len(whole) * 3 // 4, 50):
        flipped[index] ^= 0xFF
    for data in (b"", b"<html>not found</html>", whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "a").write_bytes(data)
        if kind == "" and data == bytes(flipped):
            continue  # a plain tar has no checksum over its files; the archive's sha256 is there for that
        with pytest.raises(RuntimeError, match="damaged|neither a zip nor a tar|cannot unpack|holds"):
            archives.unpack(tmp_path / "a", "pack/HR", tmp_path / "Set", 3)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["xz", "gz", "bz2"])
def test_one_wrong_byte_in_a_compressed_archive(kind: str, tmp_path: Path) -> None:
    """Where no sha256 is known, the checksum of the compression is all there is; bitmaps have none of their own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as bundle:
        for index in range(3):
            images.write(tmp_path / "x.bmp", picture(index))
            bundle.addfile(_member(f"{index}.bmp", (tmp_path / "x.bmp").read_bytes()), (tmp_path / "x.bmp").open("rb"))
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(RuntimeError, match="damaged|neither a zip nor a tar"):
        archives.unpack(tmp_path / "a", "*", tmp_path / "Set", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "x.bmp"]


# ----------------------------------------------------------------------------------------- downloading


class Server(http.server.ThreadingHTTPServer):
    """Serves one file in the manner that the first part of the path names; the last part is free."""

    daemon_threads = True
    content = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []

    def url(self, manner: str, name: str = "set.zip") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{manner}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that give up are part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        manner, wanted = self.path.split("/")[1], self.headers.get("Range")
        earlier = sum(path == self.path for path, _ in self.server.requests)
        self.server.requests.append((self.path, wanted))
        content, start = self.server.content, 0
        if manner in ("404", "503"):
            return self.send_error(int(manner))
        if manner == "busy-once" and not earlier:
            return self.send_error(503)
        if manner == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path.replace("redirect", "truncate"))
            return self.end_headers()
        if manner == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            return self.end_headers()
        if manner == "corrupt":
            content = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        if manner == "longer":
            content += b"x"
        if wanted and "ignore" not in manner:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                return self.end_headers()
            if manner == "shift":
                start = max(start - 10, 0)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if manner != "no-length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if manner == "stall" and not earlier:
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            time.sleep(10)
        elif manner == "truncate" or (manner == "ignore-truncate" and earlier < 2):
            self.wfile.write(rest[: max(len(content) // 3, 1)])
        elif manner == "always-truncate-ignore":
            self.wfile.write(rest[:200])
        else:
            self.wfile.write(rest)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    monkeypatch.setattr(archives, "TIMEOUT", 0.4)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        running.content = np.random.default_rng(0).bytes(20000)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def fetch(server: Server, manner: str, folder: Path, known: bool = True) -> bytes:
    size, sha256 = len(server.content), hashlib.sha256(server.content).hexdigest()
    arguments = (size, sha256) if known else ()
    path = archives.fetch(server.url(manner), folder / "a.zip", *arguments, progress=False)
    assert [path.name for path in folder.iterdir()] == ["a.zip"]
    return path.read_bytes()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("manner", "connections"),
    [
        ("plain", 1),
        ("no-length", 1),
        ("truncate", 3),
        ("ignore-truncate", 3),
        ("stall", 2),
        ("redirect", 6),
        ("busy-once", 2),
    ],
)
def test_fetch(manner: str, connections: int, known: bool, server: Server, tmp_path: Path) -> None:
    server.content = server.content[:19998]  # three thirds
    started = time.monotonic()
    assert fetch(server, manner, tmp_path, known) == server.content
    assert time.monotonic() - started < 5
    assert len(server.requests) == connections
    if manner == "truncate":
        assert [wanted for _, wanted in server.requests] == [None, "bytes=6666-", "bytes=13332-"]


def test_fetch_resumes_what_an_earlier_call_left(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended after 200 of 20000 bytes; 200 bytes are kept"):
        fetch(server, "always-truncate-ignore", tmp_path)
    assert len(server.requests) == 1 + archives.ATTEMPTS
    [part] = tmp_path.iterdir()
    other = archives.fetch(server.url("plain"), tmp_path / "b.zip", progress=False)
    assert server.requests[-1][1] is None, "a part from one address is never continued from another"
    other.unlink()
    whole = hashlib.sha256(server.url("plain").encode()).hexdigest()[:8]
    part.rename(tmp_path / f"a.zip.{whole}.part")
    assert fetch(server, "plain", tmp_path) == server.content
    assert server.requests[-1][1] == "bytes=200-"


def test_fetch_of_a_complete_part(server: Server, tmp_path: Path) -> None:
    whole = hashlib.sha256(server.url("plain").encode()).hexdigest()[:8]
    for known in (True, False):
        (tmp_path / f"a.zip.{whole}.part").write_bytes(server.content)
        assert fetch(server, "plain", tmp_path, known) == server.content
        (tmp_path / "a.zip").unlink()
    (tmp_path / f"a.zip.{whole}.part").write_bytes(server.content + b"from an older, longer file")
    assert fetch(server, "plain", tmp_path) == server.content


def test_fetch_survives_a_shifted_range(server: Server, tmp_path: Path) -> None:
    shifted = hashlib.sha256(server.url("shift").encode()).hexdigest()[:8]
    (tmp_path / f"a.zip.{shifted}.part").write_bytes(server.content[:500])
    assert fetch(server, "shift", tmp_path, known=False) == server.content
    assert [wanted for _, wanted in server.requests] == ["bytes=500-", None]


def test_fetch_keeps_a_right_target_and_replaces_a_wrong_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(server.content)
    assert fetch(server, "404", tmp_path) == server.content
    assert not server.requests
    (tmp_path / "a.zip").write_bytes(b"wrong")
    digest = hashlib.sha256(server.content).hexdigest()
    archives.fetch(server.url("plain"), tmp_path / "a.zip", 20000, digest, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == server.content


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("corrupt", "sha256 [0-9a-f]{64}, expected [0-9a-f]{64}.*moved to"),
        ("longer", "offers 20001 bytes, expected 20000"),
        ("404", "the server says 404"),
        ("503", "the server|503"),
        ("loop", "the server says 302"),
    ],
)
def test_fetch_fails_clearly(manner: str, message: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=message):
        fetch(server, manner, tmp_path)
    assert not (tmp_path / "a.zip").exists()
    assert [path.suffix for path in tmp_path.iterdir()] == ([".corrupt"] if manner == "corrupt" else [])
    assert len(server.requests) < 12


def test_fetch_without_server_or_with_another_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "PAUSE", 0.0)
    with Server() as closed:
        url = closed.url("plain")
    with pytest.raises(RuntimeError, match="refused"):
        archives.fetch(url, tmp_path / "a.zip", progress=False)
    for scheme in ("file:///etc/passwd", "ftp://host/a.zip"):
        with pytest.raises(ValueError, match="expected http"):
            archives.fetch(scheme, tmp_path / "a.zip", progress=False)


def test_full_disk_is_not_retried(server: Server, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    part = tmp_path / f"a.zip.{hashlib.sha256(server.url('plain').encode()).hexdigest()[:8]}.part"
    part.symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match="cannot write .*free space"):
        archives.fetch(server.url("plain"), tmp_path / "a.zip", progress=False)
    assert len(server.requests) == 1


def register(monkeypatch: pytest.MonkeyPatch, **sets: list[datasets.Source]) -> None:
    entries = {
        name: datasets.DataSet(name, "", "test", 3, "", "http://page", tuple(sources)) for name, sources in sets.items()
    }
    monkeypatch.setattr(datasets, "registry", lambda: entries)


def test_download(server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = packed(tmp_path)
    digest = hashlib.sha256(server.content).hexdigest()
    source = datasets.Source(server.url("truncate"), "pack/HR", len(server.content), digest)
    register(monkeypatch, Three=[source])
    assert datasets.download("Three", progress=False) == home / "Three"
    assert np.array_equal(datasets.load("Three")[1][1], picture(1))
    assert [path.name for path in home.iterdir()] == ["Three"], "archive removed"
    requests = len(server.requests)
    assert datasets.download("Three", progress=False) == home / "Three"
    assert len(server.requests) == requests, "a set that is there is left alone"
    assert datasets.download("Three", root=tmp_path / "other", progress=False) == tmp_path / "other" / "Three"


def test_archive_is_kept_for_the_other_set(
    server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = packed(tmp_path, "gz")
    source = datasets.Source(server.url("plain", "two.tgz"), "pack/HR", 0, "")
    register(monkeypatch, One=[source], Two=[source])
    datasets.download("One", progress=False)
    assert sorted(path.name for path in home.iterdir()) == ["One", "two.tgz"]
    datasets.download("Two", progress=False)
    assert sorted(path.name for path in home.iterdir()) == ["One", "Two"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("broken", ["404", "corrupt", "always-truncate-ignore"])
def test_mirror_is_tried(
    broken: str, server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = packed(tmp_path)
    digest = hashlib.sha256(server.content).hexdigest()
    first, mirror = (
        datasets.Source(server.url(manner), "pack/HR", len(server.content), digest) for manner in (broken, "plain")
    )
    register(monkeypatch, Three=[first, mirror])
    assert len(datasets.paths(datasets.download("Three", progress=False))) == 3


def test_download_fails_clearly(server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = b"<html>this page has moved</html>"
    sources = [datasets.Source(server.url(manner), "pack/HR", 0, "") for manner in ("plain", "404")]
    register(monkeypatch, Three=sources, Asked=[])
    with pytest.raises(RuntimeError, match="neither a zip nor a tar.*moved to.*; .*404"):
        datasets.download("Three", progress=False)
    assert [path.name for path in home.iterdir()] == ["set.zip.corrupt"]
    server.content = packed(tmp_path)  # the server is repaired: the damaged archive does not stand in the way
    assert len(datasets.paths(datasets.download("Three", progress=False))) == 3
    with pytest.raises(ValueError, match="no public download.*http://page"):
        datasets.download("Asked")
    with pytest.raises(ValueError, match="choose among Three, Asked"):
        datasets.download("Four")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RuntimeError, match="cannot create"):
        datasets.download("Three", root=tmp_path / "file" / "data")


def test_photos_need_no_download() -> None:
    assert datasets.download("photos") == datasets.paths("photos")[0].parent


def test_progress_bar(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    archives.fetch(server.url("plain"), tmp_path / "a.zip", progress=True)
    assert "100%" in capfd.readouterr().err
    archives.fetch(server.url("plain"), tmp_path / "b.zip", progress=False)
    assert not capfd.readouterr().err
