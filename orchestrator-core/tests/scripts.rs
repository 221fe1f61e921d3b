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
