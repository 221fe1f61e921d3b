//! Every story in `tests/scripts` holds.
//!
//! `STORY=canary cargo test --test scripts -- --nocapture` plays those with `canary` in their name, and
//! prints every line with the message that it led to.

#![expect(
    clippy::disallowed_methods,
    reason = "stories are files, and a person asks which to play"
)]

mod story;

use std::path::{Path, PathBuf};

#[test]
fn every_story_holds() {
    let wanted = std::env::var("STORY").ok();
    let mut names = stories();
    names.retain(|name| wanted.as_ref().is_none_or(|part| name.contains(part)));
    let least = if wanted.is_some() { 1 } else { 40 };
    assert!(names.len() >= least, "stories are gone: {names:?}");
    let mut broken = Vec::new();
    for name in &names {
        let text = read(&folder().join(format!("{name}.txt")));
        let mut story = story::Story::new();
        story.aloud = wanted.is_some();
        if story.aloud {
            println!("\n{name}");
        }
        if let Err(why) = story.play(&text) {
            broken.push(format!("{name}: {why}"));
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {} stories are broken:\n{}",
        broken.len(),
        names.len(),
        broken.join("\n")
    );
}

/// Every story and test that the list of others' bugs names is there.
#[test]
fn the_lessons_are_held() {
    assert!(held_by("LESSONS.md", 3) > 50);
}

/// Every story and test that the list of the rules names is there, and every story has its place in it.
#[test]
fn the_rules_are_held() {
    assert!(held_by("RULES.md", 2) > 400);
    let text = read(&folder().join("RULES.md"));
    let names = stories();
    let unnamed = names
        .iter()
        .filter(|name| !text.contains(&format!("`{name}`")));
    let unnamed: Vec<_> = unnamed.collect();
    assert!(unnamed.is_empty(), "RULES.md does not name {unnamed:?}");
    let first = text
        .split("## ")
        .find(|part| part.starts_with("To read first"));
    for name in quoted(first.expect("it says where to begin")) {
        assert!(names.iter().any(|n| n == name), "{name} is no story");
    }
}

/// The first line of a story is a rule that can be read by itself.
#[test]
fn every_story_says_its_rule_first() {
    for name in stories() {
        let text = read(&folder().join(format!("{name}.txt")));
        let line = text.lines().next().unwrap_or("");
        let rule = line.strip_prefix("# ").unwrap_or("");
        let after = ["The same", "Also ", "As before"].map(|begin| rule.starts_with(begin));
        let alone = rule.ends_with('.') && !after.contains(&true);
        assert!(alone, "{name} begins with {line:?}");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// The names of all stories, in their order.
fn stories() -> Vec<String> {
    let files = std::fs::read_dir(folder()).expect("the stories are beside this file");
    let names = files.map(|entry| entry.expect("it can be listed").file_name());
    let names = names.map(|name| name.into_string().expect("it is plain text"));
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".txt").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// How many names there are in this column of the tables of a file beside the stories. Each is there: a file by its
/// path, what is in it after that, and a story by its name alone.
fn held_by(list: &str, column: usize) -> usize {
    let mut names = 0;
    for row in read(&folder().join(list)).lines() {
        let Some(held) = row.split('|').nth(column).filter(|_| row.starts_with("| ")) else {
            continue;
        };
        let mut file = None;
        for name in quoted(held) {
            names += 1;
            if name.ends_with(".rs") {
                file = Some(read(&folder().join(name)));
            } else if !folder().join(format!("{name}.txt")).exists() {
                let file = file.as_deref().unwrap_or("");
                let there = [format!("fn {name}("), format!("struct {name} ")];
                let there = there.iter().any(|item| file.contains(item));
                assert!(there, "{list}: {name} is not there: {row}");
            }
        }
    }
    names
}
