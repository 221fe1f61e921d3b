//! The core pulls in nothing that could open a socket or a file, start a thread or read a clock.

use std::collections::BTreeSet;
use std::process::Command;

/// All that may ever be linked into a program by the core. Whoever adds a name looks at what it does.
const ALLOWED: [&str; 25] = [
    "equivalent",
    "fixedbitset",
    "foldhash",
    "hashbrown",
    "humantime",
    "indexmap",
    "itoa",
    "memchr",
    "orchestrator-core",
    "petgraph",
    "ppv-lite86",
    "proc-macro2",
    "quote",
    "rand",
    "rand_chacha",
    "rand_core",
    "serde",
    "serde_core",
    "serde_derive",
    "serde_json",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "uuid",
];
/// What some versions of those bring along: number formatting and byte casts.
const ALLOWED_INSIDE: [&str; 3] = ["ryu", "zerocopy", "zmij"];

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "orchestrator-core",
            "-e",
            "normal",
            "--all-features",
        ])
        .args(["--prefix", "none", "--format", "{p}", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let text = String::from_utf8(tree.stdout).expect("names are text");
    let found: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        found.contains("orchestrator-core") && found.contains("serde"),
        "{text}"
    );
    let strangers: Vec<_> = found
        .iter()
        .filter(|name| !ALLOWED.contains(name) && !ALLOWED_INSIDE.contains(name))
        .collect();
    assert!(
        strangers.is_empty(),
        "the core now depends on {strangers:?}"
    );
}
