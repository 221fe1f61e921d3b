//! What is linked into the programs: the core pulls in nothing that could open a socket or a file, start a thread or read
//! a clock, and everything is under a licence that whoever passes a binary on can keep to.

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

/// Licences that ask for no more than that they are named.
const LICENCES: [&str; 10] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Zlib",
];

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let text = tree(&["-p", "orchestrator-core", "--all-features"], "{p}");
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

#[test]
fn every_licence_is_one_of_those_that_are_fine() {
    let text = tree(&["--workspace", "--all-features"], "{p}|{l}");
    let crates: BTreeSet<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.trim_end_matches(" (*)").split_once('|'))
        .collect();
    let named = |name: &str| crates.iter().any(|(package, _)| package.starts_with(name));
    assert!(named("tokio v") && named("rusqlite v"), "{text}");
    let strangers: Vec<_> = crates
        .iter()
        .filter(|(_, licence)| !is_fine(licence))
        .collect();
    assert!(strangers.is_empty(), "look at {strangers:#?}");
}

#[test]
fn a_licence_is_fine_if_what_it_asks_for_is() {
    assert!(is_fine("MIT/Apache-2.0") && is_fine("Apache-2.0 / MIT"));
    assert!(is_fine("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(is_fine("GPL-3.0 OR Apache-2.0 WITH LLVM-exception"));
    assert!(!is_fine("MIT AND GPL-3.0") && !is_fine("GPL-3.0"));
    assert!(!is_fine("(MIT OR ISC) AND (GPL-2.0 OR GPL-3.0)"));
    assert!(!is_fine(""));
}

/// Alternatives bind no stronger than the brackets that nobody leaves out.
fn is_fine(licence: &str) -> bool {
    let choice = |text: &str| {
        let text = text.trim_matches(['(', ')']).replace('/', " OR ");
        let mut choices = text.split(" OR ");
        choices.any(|one| LICENCES.contains(&one.trim()))
    };
    licence.split(" AND ").all(choice)
}

/// What cargo says of each crate that is linked into something.
fn tree(of: &[&str], format: &str) -> String {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "-e", "normal", "--prefix", "none", "--locked"])
        .args(["--format", format])
        .args(of)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    String::from_utf8(tree.stdout).expect("names are text")
}
