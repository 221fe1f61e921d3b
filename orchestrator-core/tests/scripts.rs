//! Every story in `tests/scripts` holds.
//!
//! `STORY=canary cargo test --test scripts -- --nocapture` plays those with `canary` in their name, and
//! prints every line with the message that it led to.

mod story;

use std::path::Path;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "which stories to play is asked by a person"
)]
fn every_story_holds() {
    let wanted = std::env::var("STORY").ok();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the stories are beside this file")
        .map(|entry| entry.expect("it can be listed").file_name())
        .map(|name| name.into_string().expect("it is plain text"))
        .filter(|name| match &wanted {
            Some(part) => name.contains(part.as_str()) && name.ends_with(".txt"),
            None => name.ends_with(".txt"),
        })
        .collect();
    names.sort();
    let least = if wanted.is_some() { 1 } else { 40 };
    assert!(names.len() >= least, "stories are gone: {names:?}");
    let mut broken = Vec::new();
    for name in &names {
        let text = std::fs::read_to_string(folder.join(name)).expect("a story is text");
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let text =
        std::fs::read_to_string(folder.join("LESSONS.md")).expect("it is beside the stories");
    let mut names = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let held = row.split('|').nth(3).unwrap_or("");
        let quoted = held.split('`').skip(1).step_by(2);
        let mut file = String::new();
        for name in quoted {
            names += 1;
            let path = match name.strip_suffix(".rs") {
                Some(_) => folder.join(name),
                None => folder.join(format!("{name}.txt")),
            };
            if path.exists() {
                file = std::fs::read_to_string(path).expect("it is text");
            } else {
                assert!(file.contains(name), "{name} is not there");
            }
        }
    }
    assert!(names > 50, "{names}");
}
