//! Archives that mean well, and others.

use std::os::unix::fs::MetadataExt;

use tar::{Builder, Header};

use super::*;

/// An archive, entry by entry: also such that no good program would write.
struct Packed(Builder<Vec<u8>>);

impl Packed {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: u8, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        // What the crate would refuse to write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", 0o644, content.as_bytes())
    }

    fn link(self, name: &str, link: &str) -> Self {
        self.entry(b'2', name, link, 0o777, b"")
    }

    fn hard(self, name: &str, link: &str) -> Self {
        self.entry(b'1', name, link, 0o644, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A directory that an archive is unpacked to, and one around it that nothing may come to.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.root()).unwrap();
        place
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn take(&self, packed: Packed) -> Result<u64, Failed> {
        let unpacked = unpack(&packed.bytes()[..], &self.root(), bound(1 << 20));
        let around: Vec<_> = fs::read_dir(self.0.path()).unwrap().collect();
        assert_eq!(around.len(), 1, "something has got out: {around:?}");
        unpacked
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = remove(&self.root());
    }
}

fn bound(unpacked_bytes_max: u64) -> Bounds {
    Bounds {
        unpacked_bytes_max,
        ..Bounds::default()
    }
}

fn why(packed: Packed) -> String {
    match Place::new().take(packed) {
        Err(Failed::Wrong(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_means_well_is_there() {
    let place = Place::new();
    let long = "long/".repeat(25) + "name";
    let mut packed = Packed::new()
        .entry(b'5', "./", "", 0o755, b"")
        .entry(b'5', "./bin/", "", 0o700, b"")
        .entry(b'0', "./bin/app", "", 0o4755, b"program")
        .file("etc/app.conf", "x = 1")
        .link("bin/run", "app")
        .link("etc/deep/app", "../../bin/./app")
        .link("gone", "nowhere")
        .hard("bin/same", "./bin/app");
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    packed
        .0
        .append_data(&mut header, &long, &b"deep"[..])
        .unwrap();
    let records = [("path", "by/a/record".as_bytes())];
    packed.0.append_pax_extensions(records).unwrap();
    let packed = packed.file("short", "noted");

    assert_eq!(place.take(packed).unwrap(), 7 + 5 + 4 + 5);
    let root = place.root();
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("bin/run"), "program");
    assert_eq!(read("bin/same"), "program");
    assert_eq!(read("etc/deep/app"), "program");
    assert_eq!(read("etc/app.conf"), "x = 1");
    assert_eq!(read(&long), "deep");
    assert_eq!(read("by/a/record"), "noted");
    let mode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("bin/app"), 0o555, "no setuid, and nobody writes");
    assert_eq!(mode("etc/app.conf"), 0o444);
    assert_eq!((mode(""), mode("bin"), mode("long")), (0o555, 0o555, 0o555));
    remove(&root).unwrap();
    assert!(!root.exists());
}

#[test]
fn nothing_gets_out() {
    let out = "leads out of the archive";
    let deep = "d/".repeat(DEPTH_MAX + 1);
    for (packed, sentence) in [
        (Packed::new().file("../up", "x"), "climbs out"),
        (Packed::new().file("a/../../up", "x"), "climbs out"),
        (Packed::new().file("/up", "x"), "absolute path"),
        (
            Packed::new().entry(b'5', "../up/", "", 0o755, b""),
            "climbs out",
        ),
        (Packed::new().link("l", "/etc"), out),
        (Packed::new().link("l", ".."), out),
        (Packed::new().link("a/l", "../../up"), out),
        (
            Packed::new().link("a/b/up", "..").link("x", "a/b/up/../.."),
            "only at its beginning",
        ),
        (Packed::new().link("l", ".").file("l/x", "x"), "in the way"),
        (
            Packed::new().link("a/l", "..").file("a/l/x", "x"),
            "in the way",
        ),
        (Packed::new().link("x", "y").file("x", "x"), "twice"),
        (Packed::new().hard("h", "/etc/passwd"), "absolute path"),
        (Packed::new().hard("h", "../../etc/passwd"), "climbs out"),
        (
            Packed::new().hard("h", "later").file("later", ""),
            "no such file before",
        ),
        (
            Packed::new().link("a/b/l", "../../x").hard("h", "a/b/l"),
            "no such file before",
        ),
        (Packed::new().file("f", "").file("f", ""), "twice"),
        (Packed::new().file("f", "").file("f/g", ""), "in the way"),
        (Packed::new().file(".", ""), "or none"),
        (
            Packed::new().entry(b'3', "null", "", 0o666, b""),
            "of type '3'",
        ),
        (
            Packed::new().entry(b'6', "pipe", "", 0o666, b""),
            "of type '6'",
        ),
        (
            Packed::new().entry(b'S', "holes", "", 0o666, b""),
            "of type 'S'",
        ),
        (Packed::new().file(&(deep + "f"), ""), "32 directories deep"),
        (
            Packed::new()
                .entry(b'x', "note", "", 0, b"12 path=a\0b\n")
                .file("f", ""),
            "no file can have this name",
        ),
    ] {
        let why = why(packed);
        assert!(why.contains(sentence), "{why}");
    }
}

#[test]
fn nothing_is_too_much() {
    let big = vec![b'x'; 600 << 10];
    let twice = Packed::new()
        .entry(b'0', "one", "", 0o644, &big)
        .entry(b'0', "two", "", 0o644, &big);
    assert!(why(twice).contains("larger than is allowed"));

    let note = vec![b'x'; (NOTES_BYTES_MAX + 1) as usize];
    let place = Place::new();
    let packed = Packed::new().entry(b'L', "././@LongLink", "", 0, &note);
    let refused = unpack(&packed.bytes()[..], &place.root(), Bounds::default()).unwrap_err();
    assert!(refused.why().contains("a note of more than"), "{refused:?}");

    let name = vec![b'x'; NAME_BYTES_MAX + 1];
    let packed = Packed::new().entry(b'L', "././@LongLink", "", 0, &name);
    assert!(why(packed.file("f", "")).contains("a name of more than"));
    let packed = Packed::new().entry(b'L', "././@LongLink", "", 0, &name[..300]);
    assert!(why(packed.file("f", "")).contains("no file can have this name"));

    // Directories that only names speak of are counted, too.
    let few = Bounds {
        entries_max: 10,
        ..Bounds::default()
    };
    for (name, fits) in [
        ("a/b/c/d/e/f/g/h/i/j", true),
        ("a/b/c/d/e/f/g/h/i/j/k", false),
    ] {
        let packed = Packed::new().file(name, "");
        let unpacked = unpack(&packed.bytes()[..], &Place::new().root(), few);
        assert_eq!(unpacked.is_ok(), fits, "{unpacked:?}");
    }
}

#[test]
fn a_bomb_goes_off_within_bounds() {
    let mut packed = Vec::new();
    let level = flate2::Compression::best();
    let mut encoder = flate2::write::GzEncoder::new(&mut packed, level);
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    io::Write::write_all(&mut encoder, header.as_bytes()).unwrap();
    io::copy(&mut io::repeat(0).take(64 << 20), &mut encoder).unwrap();
    encoder.finish().unwrap();
    assert!(packed.len() < 100 << 10);

    let place = Place::new();
    let reader = flate2::read::MultiGzDecoder::new(&packed[..]);
    let refused = unpack(reader, &place.root(), bound(8 << 20)).unwrap_err();
    assert!(
        refused.why().contains("larger than is allowed"),
        "{refused:?}"
    );
    let written = fs::metadata(place.root().join("zeros")).unwrap().len();
    assert!(written <= 8 << 20, "{written}");
}

#[test]
fn what_is_damaged_is_refused() {
    let whole = Packed::new().file("f", &"x".repeat(2000)).bytes();
    for (bytes, sentence) in [
        (&whole[..700], "ends in the middle"),
        (&whole[..300], "read"),
        (&[b'x'; 512][..], "when getting cksum"),
    ] {
        let refused = unpack(bytes, &Place::new().root(), bound(1 << 20)).unwrap_err();
        assert!(refused.why().contains(sentence), "{refused:?}");
    }
    let note = |record: &str| {
        let packed = Packed::new().entry(b'x', "note", "", 0, record.as_bytes());
        why(packed.file("f", ""))
    };
    for record in ["x", "99 path=a\n", "8 path=a", "0 path=a\n", "-1 a=b\n"] {
        assert!(note(record).contains("cannot be read"), "{record:?}");
    }
    assert!(note("10 size=5\n").contains("said twice"));
    assert!(note("22 GNU.sparse.major=1\n").contains("sparse"));
}
