//! What is kept, what is let go of, and what is nothing.

use super::*;
use crate::artifact::Source;

fn artifact(content: &str) -> Artifact {
    let digest = aws_lc_rs::digest::digest(&SHA256, content.as_bytes());
    Artifact {
        source: Source::File("/nowhere".into()),
        sha256: digest.as_ref().iter().map(|b| format!("{b:02x}")).collect(),
        unpack: Unpack::Not,
    }
}

fn put(cache: &mut Cache, content: &str) -> Artifact {
    let artifact = artifact(content);
    let mut source = content.as_bytes();
    let made = make(
        &artifact,
        cache.bounds(),
        cache.place(),
        &mut source,
        &|| false,
    );
    cache.add(&artifact, made.unwrap()).unwrap();
    artifact
}

fn listed(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn those_that_were_used_last_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        kept_max: 2,
        kept_bytes_max: 1000,
        ..Bounds::default()
    };
    let mut cache = Cache::open(dir.path().to_owned(), bounds).unwrap();
    let all: Vec<_> = ["a", "b", "c", "d"]
        .map(|content| put(&mut cache, content))
        .into();
    let here = |cache: &mut Cache| -> Vec<bool> {
        all.iter()
            .map(|artifact| cache.find(artifact).is_some())
            .collect()
    };
    let needed = BTreeSet::from([cache.find(&all[0]).unwrap()]);
    assert_eq!(cache.clean(&needed).len(), 1);
    assert_eq!(here(&mut cache), [true, false, true, true]);

    // The next agent knows the order, too.
    let mut cache = Cache::open(dir.path().to_owned(), bounds).unwrap();
    put(&mut cache, "e");
    cache.clean(&BTreeSet::new());
    assert_eq!(here(&mut cache), [true, false, false, false]);
    assert_eq!(listed(dir.path()), 2);

    let large = put(&mut cache, &"x".repeat(1000));
    let needed = BTreeSet::from([cache.find(&large).unwrap()]);
    cache.clean(&needed);
    assert_eq!(cache.counts(), (3, 1002));
    cache.clean(&BTreeSet::new());
    // It was used last, and fills the place alone.
    assert_eq!(cache.counts(), (1, 1000));
}

#[test]
fn what_is_not_whole_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = Cache::open(dir.path().to_owned(), Bounds::default()).unwrap();
    let whole = put(&mut cache, "whole");
    let path = cache.find(&whole).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    for leftover in ["7.new", "half-none"] {
        fs::create_dir(dir.path().join(leftover)).unwrap();
        fs::write(dir.path().join(leftover).join(CONTENT), "half").unwrap();
    }
    let mut cache = Cache::open(dir.path().to_owned(), Bounds::default()).unwrap();
    assert_eq!(listed(dir.path()), 1);
    assert_eq!(cache.find(&whole).as_ref(), Some(&path));

    // Somebody tidies up.
    fs::remove_file(path).unwrap();
    assert_eq!(cache.find(&whole), None);
    assert_eq!(listed(dir.path()), 0);
}

#[test]
fn what_is_not_as_promised_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        bytes_max: 10,
        ..Bounds::default()
    };
    let cache = Cache::open(dir.path().to_owned(), bounds).unwrap();
    let tar = Artifact {
        unpack: Unpack::TarGz,
        ..artifact("no archive")
    };
    for (artifact, content, abandoned, sentence) in [
        (
            artifact("one"),
            "other",
            false,
            "its sha256 is d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, of 5 bytes, and not",
        ),
        (
            artifact("01234567890"),
            "01234567890",
            false,
            "more than the 10 bytes",
        ),
        (tar.clone(), "no archive", false, "invalid gzip header"),
        (tar, "no archive", true, "nobody wants it"),
    ] {
        let mut source = content.as_bytes();
        let made = make(&artifact, bounds, cache.place(), &mut source, &|| abandoned);
        let why = match made.unwrap_err() {
            Unmade::Hash(why) => why,
            Unmade::Failed(failed) => failed.why().to_owned(),
        };
        assert!(why.contains(sentence), "{why}");
        assert_eq!(listed(dir.path()), 0);
    }
}
